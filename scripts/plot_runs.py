"""Draw the curves of several runs into one figure: the training loss, or another logged value.

The phases of a run are drawn one after the other.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.files import write_figure

EXAMPLES = """examples:
  python scripts/plot_runs.py runs/lgm_net_tiny_r0.10 runs/mine --output curves.png
  python scripts/plot_runs.py runs/* --kind validation --value psnr --output psnr.png
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument(
        "--labels", nargs="+", help="names of the runs (default: names of the folders)"
    )
    parser.add_argument("--kind", default="train", help="train or validation")
    parser.add_argument("--value", default="mse", help="what to draw: mse, loss, psnr, rate, ...")
    parser.add_argument(
        "--smooth", type=int, default=1, help="mean over this number of logged values"
    )
    parser.add_argument("--first", type=int, default=0, help="first step in the figure")
    parser.add_argument("--output", type=Path, required=True, help="a .png, .svg or .pdf file")
    arguments = parser.parse_args()
    try:
        curves = [curve(run, arguments.kind, arguments.value) for run in arguments.runs]
        labels = arguments.labels or [run.name for run in arguments.runs]
        if len(labels) != len(curves):
            raise ValueError(f"{len(labels)} labels for {len(curves)} runs; give one for each")
        draw(curves, labels, arguments)
    except (ValueError, OSError) as error:
        print(f"plot_runs.py: {error}", file=sys.stderr)
        return 1
    print(f"written to {arguments.output}")
    return 0


def curve(run: Path, kind: str, value: str) -> np.ndarray:
    """Steps and values ``(2, count)`` of a run, including its earlier phases.

    Raises:
        ValueError: there is no log, or the value is not in it.
    """
    logs = [*sorted(run.glob("*/log.jsonl")), run / "log.jsonl"]
    points: list[tuple[float, float]] = []
    for log in logs:
        if not log.is_file():
            raise ValueError(f"there is no {log}; name the folder of a run")
        start = points[-1][0] if points else 0
        records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        of_kind = [record for record in records if record["kind"] == kind]
        if not of_kind or value not in of_kind[-1]:
            known = ", ".join(of_kind[-1]) if of_kind else "nothing"
            raise ValueError(f"{log} has no '{value}' of kind '{kind}' (it has {known})")
        points += [(start + record["step"], record[value]) for record in of_kind]
    return np.array(points, dtype=float).T


def draw(curves: list[np.ndarray], labels: list[str], arguments: argparse.Namespace) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    window = np.ones(arguments.smooth) / arguments.smooth
    for (steps, values), label in zip(curves, labels, strict=True):
        if not 1 <= arguments.smooth <= len(values):
            raise ValueError(f"--smooth is {arguments.smooth}, expected 1 to {len(values)}")
        smooth = np.convolve(values, window, mode="valid")
        steps = steps[len(steps) - len(smooth) :]
        shown = steps >= arguments.first
        axes.plot(steps[shown], smooth[shown], label=label)
    if all((values > 0).all() for _, values in curves) and arguments.kind == "train":
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(f"{arguments.kind} {arguments.value}")
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(arguments.output, figure, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
