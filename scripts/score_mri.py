"""Score methods of MRI at several masks on several test sets: the rows of docs/mri.md.

Writes a table file for scripts/make_tables.py. Rows that are in the file stay, unless they are
scored again.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import runtime
from lgmnet.config import EvaluationConfig
from lgmnet.data.datasets import open_test_sets
from lgmnet.evaluation.scoring import Scoring, score_sets
from lgmnet.files import write_text
from lgmnet.project import PROJECT
from lgmnet.runtime import Runtime
from lgmnet.weights.saved import find_weights

MEASURES = ("psnr", "ssim", "nmse")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/score_mri.py 'FISTA, total variation' "
        "configs/mri_fista_tv.yaml --masks 20 30 --data mri/BrainImages_test",
    )
    parser.add_argument("method", help="name of the row")
    parser.add_argument("weights", help="weights, or the config of a method without trained values")
    parser.add_argument("--trained-on", default="–", help="what the table says of the training")
    parser.add_argument(
        "--masks", nargs="+", default=["20"], help="of a config: mri/masks/mask_<number>.mat"
    )
    parser.add_argument("--data", nargs="+", required=True, help="test sets")
    parser.add_argument("--output", type=Path, default=PROJECT / "docs/experiments/mri.json")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_args()
    try:
        with runtime.start(arguments.device) as here:
            for mask in arguments.masks:
                row = score(arguments, mask, here)
                add_row(arguments.output, row)
                print(json.dumps(row, ensure_ascii=False))
    except (ValueError, OSError) as error:
        print(f"score_mri.py: {error}", file=sys.stderr)
        return 1
    return 0


def score(arguments: argparse.Namespace, mask: str, here: Runtime) -> dict[str, Any]:
    """One row: the scores of a method at one mask."""
    is_config = arguments.weights.endswith(".yaml")
    overrides = [f"sampling.mask=mri/masks/mask_{mask}.mat"] if is_config else []
    weights = find_weights(arguments.weights, overrides)
    sets = open_test_sets(arguments.data, runtime.data_roots())
    rules = [EvaluationConfig(protocol="mri")]
    [results] = score_sets(weights, sets, Scoring(rules=rules), here)
    return {
        "choices": {
            "method": arguments.method,
            "trained on": arguments.trained_on,
            "mask": results["condition"],
        },
        "commit": results["commit"],
        "scores": {
            name: {measure: data[measure] for measure in MEASURES}
            for name, data in results["datasets"].items()
        },
    }


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Put a row into the table file, in place of one with the same choices."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": []}
    runs = {json.dumps(run["choices"]): run for run in content["runs"]}
    key = json.dumps(row["choices"])
    row["scores"] = runs.get(key, row)["scores"] | row["scores"]
    runs[key] = row
    sets = dict.fromkeys(name for run in runs.values() for name in run["scores"])
    ordered = sorted(runs.values(), key=lambda run: run["choices"]["mask"])
    columns = [f"{name} {measure}" for name in sets for measure in MEASURES]
    write_text(path, json.dumps({"columns": columns, "runs": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
