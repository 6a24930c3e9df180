"""Score the reconstruction of signals of make_signals.py, and draw the first one.

Prints the mean PRD, SNR and PSNR of the start and of the reconstruction. With a config, Φ is drawn
anew for every seed, and the numbers are the mean and the range of the seeds.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import metrics, runtime
from lgmnet.data.datasets import find_images
from lgmnet.data.images import read_pixels
from lgmnet.data.signals import SAMPLING_RATE, prd, snr, unfold
from lgmnet.data.values import unit_array
from lgmnet.files import write_figure
from lgmnet.models import SensingModel
from lgmnet.report import markdown
from lgmnet.weights.saved import find_weights

HEADER = ["seed", "start: PRD", "SNR", "PSNR", "reconstruction: PRD", "SNR", "PSNR"]
SHOWN = 2048  # samples of the picture


class Rebuilt(NamedTuple):
    """Images ``(count, H, W)``, float64, white is 1."""

    truth: np.ndarray
    start: np.ndarray
    result: np.ndarray


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/score_signals.py --seeds 1 2 3 --overrides "
        "sampling.ratio=0.5",
    )
    parser.add_argument("--data", default="signals/ecg.npz", help="file of make_signals.py")
    parser.add_argument("--weights", default="configs/signals.yaml", help="weights or config")
    parser.add_argument("--overrides", nargs="*", default=[], help="KEY=VALUE, of a config")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="of Φ, with a config")
    parser.add_argument("--picture", type=Path, help="draw the first signal of the first seed")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    given = parser.parse_args()
    try:
        with runtime.start(given.device) as here, torch.inference_mode():
            found = {name: rebuild(given, name, here.device) for name in names(given)}
        print(markdown(HEADER, rows(found)))
        if given.picture:
            draw(next(iter(found.values())), given.picture)
    except (ValueError, OSError) as error:
        print(f"score_signals.py: {error}", file=sys.stderr)
        return 1
    return 0


def names(given: argparse.Namespace) -> list[str]:
    """The seeds; weights have their own Φ, so they are scored once."""
    return [str(seed) for seed in given.seeds] if given.weights.endswith(".yaml") else ["weights"]


def rebuild(given: argparse.Namespace, seed: str, device: torch.device) -> Rebuilt:
    drawn = [] if seed == "weights" else [f"training.seed={seed}"]
    model = find_weights(given.weights, [*given.overrides, *drawn]).load().to(device)
    paths = find_images(given.data, runtime.data_roots())
    pixels = np.stack([unit_array(read_pixels(path)) for path in paths])
    if pixels.ndim != 3 or pixels.shape[2] != model.operator.multiple:
        raise ValueError(
            f"{given.data} has images of shape {pixels.shape[1:]}, expected signals that are one "
            f"block of {model.operator.multiple} samples wide; make them with make_signals.py"
        )
    y = model.measure(torch.from_numpy(pixels).float()[:, None].to(device))
    result = model.reconstruct(y)[:, 0].double().cpu().numpy()
    return Rebuilt(pixels.astype(np.float64), start(model, y), result)


def start(model: SensingModel, y: torch.Tensor) -> np.ndarray:
    """Φᵀ(ΦΦᵀ)⁻¹y, the smallest image that fits y."""
    zero = torch.zeros_like(model.operator.adjoint(y))
    return model.operator.project(zero, y)[:, 0].double().cpu().numpy()


def rows(found: dict[str, Rebuilt]) -> list[list[str]]:
    """A line for every seed, and one for their mean and range."""
    numbers = {seed: scores(each) for seed, each in found.items()}
    lines = [[seed, *(f"{value:.2f}" for value in line)] for seed, line in numbers.items()]
    if len(lines) > 1:
        table = np.array(list(numbers.values()))
        spread = zip(table.mean(0), np.ptp(table, axis=0), strict=True)
        lines.append(["mean (range)", *(f"{mean:.2f} ({width:.2f})" for mean, width in spread)])
    return lines


def scores(rebuilt: Rebuilt) -> list[float]:
    """Mean over the signals of PRD, SNR and PSNR, of the start and of the reconstruction."""
    truth = unfold(rebuilt.truth)
    result = []
    for images in (rebuilt.start, rebuilt.result):
        pairs = list(zip(unfold(images), truth, strict=True))
        both = zip(images, rebuilt.truth, strict=True)
        result += [
            float(np.mean([prd(*pair) for pair in pairs])),
            float(np.mean([snr(*pair) for pair in pairs])),
            float(np.mean([metrics.score(255 * a, 255 * b).psnr for a, b in both])),
        ]
    return result


def draw(rebuilt: Rebuilt, output: Path) -> None:
    truth, start, result = (unfold(images)[0, :SHOWN] for images in rebuilt)
    seconds = np.arange(len(truth)) / SAMPLING_RATE
    curves = {"truth": truth, "start": start, "reconstruction": result, "error": result - truth}
    figure, axes = plt.subplots(4, sharex=True, figsize=(9, 7), constrained_layout=True)
    for axis, (title, curve) in zip(axes, curves.items(), strict=True):
        axis.plot(seconds, curve, linewidth=0.8)
        axis.set_ylabel("mV")
        axis.set_title(title, loc="left")
    axes[-1].set_xlabel("seconds")
    write_figure(output, figure, dpi=80)


if __name__ == "__main__":
    sys.exit(main())
