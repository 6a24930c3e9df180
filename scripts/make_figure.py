"""Draw the figure of README: image, Φᵀy and reconstruction of built-in photographs."""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import metrics, runtime
from lgmnet.data import builtin
from lgmnet.data.color import luma
from lgmnet.data.images import read_pixels
from lgmnet.data.transforms import crop_back, pad_to_block
from lgmnet.data.values import from_unit, to_unit
from lgmnet.models import SensingModel
from lgmnet.runtime import device_of
from lgmnet.weights.saved import find_weights

# Name, and the crop that is shown: top, left, side in pixels.
SHOWN = (("astronaut.png", 0, 96, 256), ("coffee.png", 90, 170, 256))


def columns(model: SensingModel, pixels: np.ndarray) -> list[np.ndarray]:
    """The image, Φᵀy and the reconstruction: 0..255 float64 ``(H, W)``.

    The rows of a learned Φ have no unit norm; one factor brings Φᵀy to the scale of the image.
    """
    image = to_unit(torch.from_numpy(pixels).to(device_of(model)))[None, None]
    padded = pad_to_block(image, model.multiple)
    with torch.inference_mode():
        y = model.measure(padded)
        adjoint = model.operator.adjoint(y)
        adjoint = adjoint * (adjoint * padded).sum() / adjoint.square().sum()
        images = [adjoint, model.reconstruct(y)]
    rebuilt = [from_unit(crop_back(i, *pixels.shape)[0, 0]) for i in images]
    return [pixels.astype(np.float64), *rebuilt]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="lgm_net_tiny_r0.10", help="name, folder or file")
    parser.add_argument("--output", type=Path, default=Path("docs/figure.png"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_args()
    try:
        weights = find_weights(arguments.weights)
        with runtime.start(arguments.device) as here:
            runtime.announce(here, sys.stderr)
            draw(weights.load().to(here.device), arguments.output)
    except (ValueError, OSError) as error:
        print(f"make_figure.py: {error}", file=sys.stderr)
        return 1
    print(f"{weights.name}: {arguments.output}")
    return 0


def draw(model: SensingModel, output: Path) -> None:
    figure, axes = plt.subplots(len(SHOWN), 3, figsize=(9, 6.5), constrained_layout=True)
    for row, (name, top, left, side) in zip(axes, SHOWN, strict=True):
        pixels = luma(read_pixels(builtin.paths((name,))[0]))
        images = columns(model, pixels)
        titles = [f"{name.partition('.')[0]} (part of it)"]
        for label, image in zip(("Φᵀy, rescaled", "reconstruction"), images[1:], strict=True):
            titles.append(f"{label}: {metrics.score(image, images[0]).psnr:.2f} dB")
        for axis, title, image in zip(row, titles, images, strict=True):
            shown = np.clip(image[top : top + side, left : left + side], 0, 255)
            axis.imshow(shown, cmap="gray", vmin=0, vmax=255)
            axis.set_title(title)
            axis.axis("off")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
