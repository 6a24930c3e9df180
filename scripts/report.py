"""Write one page on one or several weights: scores, pictures, stages, Φ. It opens from the disk."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import runtime
from lgmnet.data.datasets import open_test_sets
from lgmnet.data.images import printable
from lgmnet.evaluation.scoring import Scoring, score_sets
from lgmnet.reports.page import Entry, write_report
from lgmnet.weights.saved import find_weights


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/report.py runs/a runs/b --data Set11 --output report.html",
    )
    parser.add_argument("weights", nargs="*", default=["lgm_net_tiny_r0.10"],
                        help="names, folders or files of weights")  # fmt: skip
    parser.add_argument("--data", nargs="+", default=["builtin"], help="test sets or folders")
    parser.add_argument("--at", help="condition, such as r0.05 or the name of a mask")
    parser.add_argument("--images", type=int, default=6, help="number of images with pictures")
    parser.add_argument("--noise-std", type=float, help="measurement noise, in the unit of y")
    parser.add_argument("--output", type=Path, default=Path("report.html"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_args()
    try:
        found = [find_weights(name) for name in arguments.weights]
        sets = open_test_sets(arguments.data, runtime.data_roots())
        with runtime.start(arguments.device) as here:
            runtime.announce(here, sys.stderr)
            entries = []
            for weights in found:
                how = Scoring(
                    rules=[weights.config.evaluation],
                    condition=arguments.at,
                    noise_std=arguments.noise_std,
                )
                [results] = score_sets(weights, sets, how, here)
                entries.append(Entry(weights, how, results))
            path = write_report(arguments.output, entries, sets, here, arguments.images)
    except (ValueError, OSError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 1
    print(f"written to {printable(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
