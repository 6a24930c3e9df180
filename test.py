"""Score weights on test sets: PSNR and SSIM per image, beside the published values.

Writes metrics.json, metrics.csv and, on request, the reconstructions.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from lgmnet import report
from lgmnet.data.datasets import open_test_sets
from lgmnet.data.images import to_uint8, write_image
from lgmnet.engine import fast, runtime
from lgmnet.engine.checkpoint import find_weights
from lgmnet.engine.evaluation import Result
from lgmnet.engine.scoring import score_sets
from lgmnet.metrics import PROTOCOLS, find_protocol

EXAMPLES = """examples:
  python test.py
  python test.py checkpoints/lgm_net_tiny_r0.10 --data Set11 BSD68 --save-images
  python test.py runs/quickstart_r0.10 --data path/to/folder --output results/mine
  python test.py configs/fista.yaml sampling.ratio=0.25 --data Set11
"""


def main() -> int:
    arguments = parse()
    try:
        weights = find_weights(arguments.weights, arguments.overrides)
        # What is not asked for is as the weights' own config says.
        asked = {k: getattr(arguments, k) for k in ("protocol", "color", "padding")}
        asked = {k: v for k, v in asked.items() if v is not None}
        settings = dataclasses.replace(weights.config.evaluation, **asked)
        find_protocol(settings.protocol)
        sets = open_test_sets(arguments.data, runtime.data_roots())
        output = arguments.output or Path("results") / weights.name
        output.mkdir(parents=True, exist_ok=True)

        def save(dataset: str, result: Result) -> None:
            path = output / dataset / f"{result.name}.png"
            write_image(path, to_uint8(result.pixels / 255))

        with runtime.start(arguments.device) as here:
            results = score_sets(
                weights,
                sets,
                settings,
                here,
                arguments.noise_std,
                arguments.consistency,
                save if arguments.save_images else None,
                lambda model: fast.prepare(
                    model, arguments.fast, arguments.precision, arguments.max_memory
                ),
            )
        print(report.comparison(results))
        report.write_results(output, results)
    except (ValueError, OSError) as error:
        print(f"test.py: {error}", file=sys.stderr)
        return 1
    print(f"written to {output / 'metrics.json'}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights",
        nargs="?",
        default="lgm_net_tiny_r0.10",
        help="name, folder or file; or the YAML of an algorithm without trained values",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="override entries of that YAML"
    )
    parser.add_argument(
        "--data", nargs="+", default=["builtin"], help="test sets by name, folder or image"
    )
    parser.add_argument("--output", type=Path, help="folder (default: results/<weights>)")
    parser.add_argument("--save-images", action="store_true", help="save reconstructions as PNG")
    parser.add_argument(
        "--protocol", help=f"one of {', '.join(PROTOCOLS)} (default: what the weights name)"
    )
    parser.add_argument("--color", help="luma, or rgb: each channel by itself")
    parser.add_argument("--padding", help="zeros (as published) or replicate")
    parser.add_argument(
        "--noise-std", type=float, default=0.0, help="measurement noise, in the unit of y"
    )
    parser.add_argument(
        "--consistency",
        action="store_true",
        help="also ‖Φx̂ − y‖ / ‖y‖, and PSNR after projection onto Φx = y",
    )
    parser.add_argument("--fast", action="store_true", help="the rewritten network, same numbers")
    parser.add_argument("--precision", default="fp32", help="fp32, or with --fast bf16")
    parser.add_argument("--max-memory", help="work in strips that fit, such as 2GiB; same numbers")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    sys.exit(main())
