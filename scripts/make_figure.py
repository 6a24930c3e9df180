"""Draw images, Φᵀy and their reconstructions: the figure of README, or of own images.

Without --images it draws a built-in photograph: truth, Φᵀy, a rival and --weights, with zooms.
`lgmnet figure` draws figures for papers. For tomography filtered back projection is drawn in place
of Φᵀy.
"""

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
from lgmnet.data.datasets import find_images
from lgmnet.data.images import read_pixels
from lgmnet.data.transforms import crop_back, pad_to_block
from lgmnet.data.values import from_unit, protocol_scale, to_unit
from lgmnet.files import write_figure
from lgmnet.models import SensingModel
from lgmnet.operators import BlockSampling, ParallelBeam
from lgmnet.papers import crops
from lgmnet.papers.crops import Box, Shown
from lgmnet.papers.style import plotting
from lgmnet.runtime import Runtime, device_of
from lgmnet.weights.saved import find_weights

# A built-in image, the part that is shown, and the part that is enlarged.
SHOWN = {"astronaut.png": (Box(0, 96, 256), Box(60, 190, 64))}
# Black in an error map is no error, white an error of so much, on 0..255.
LARGEST_ERROR = 25.5


def columns(model: SensingModel, pixels: np.ndarray) -> list[np.ndarray]:
    """The image, Φᵀy or filtered back projection, and the reconstruction: 0..255 ``(H, W)``.

    The rows of a learned Φ have no unit norm; one factor brings Φᵀy to the scale of the image.
    """
    image = to_unit(torch.from_numpy(pixels).to(device_of(model)))[None, None]
    padded = image if model.operator.size else pad_to_block(image, model.multiple)
    with torch.inference_mode():
        y = model.measure(padded)
        operator = model.operator
        adjoint = operator.fbp(y) if isinstance(operator, ParallelBeam) else operator.adjoint(y)
        if isinstance(model.operator, BlockSampling):
            adjoint = adjoint * (adjoint * padded).sum() / adjoint.square().sum()
        images = [adjoint, model.reconstruct(y)]
    rebuilt = [from_unit(crop_back(i, *pixels.shape)[0, 0]) for i in images]
    return [protocol_scale(pixels).astype(np.float64), *rebuilt]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="lgm_net_tiny_r0.10", help="name, folder or file")
    parser.add_argument(
        "--rival", default="ista_net_plus_5_r0.10", help="other weights, for the built-in images"
    )
    parser.add_argument(
        "--images", nargs="+", default=[], help="files or parts of sets, in place of the built-in"
    )
    parser.add_argument("--error", action="store_true", help="also the error of the reconstruction")
    parser.add_argument("--output", type=Path, default=Path("docs/figure.png"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_args()
    try:
        weights = find_weights(arguments.weights)
        roots = runtime.data_roots()
        paths = [path for name in arguments.images for path in find_images(name, roots)]
        with runtime.start(arguments.device) as here:
            runtime.announce(here, sys.stderr)
            model = weights.load().to(here.device)
            if paths:
                draw(model, paths, arguments.error, arguments.output)
            else:
                draw_built_in(model, [arguments.rival, arguments.weights], here, arguments.output)
    except (ValueError, OSError) as error:
        print(f"make_figure.py: {error}", file=sys.stderr)
        return 1
    print(f"{weights.name}: {arguments.output}")
    return 0


def draw_built_in(model: SensingModel, names: list[str], here: Runtime, output: Path) -> None:
    """Truth, Φᵀy and the reconstructions by the named weights of the built-in image."""
    rows = []
    for path in builtin.paths(tuple(SHOWN)):
        image, start, _ = columns(model, luma(read_pixels(path)))
        first = [
            Shown(path.stem, image),
            Shown("Φᵀy, rescaled", start, metrics.score(start, image)),
        ]
        rows.append([*first, *(crops.reconstruct(name, path, here) for name in names)])
    regions, boxes = zip(*SHOWN.values(), strict=True)
    with plotting() as plt:
        figure = crops.draw(plt, rows, [[box] for box in boxes], regions)
        write_figure(output, figure, dpi=240)


def draw(model: SensingModel, paths: list[Path], error: bool, output: Path) -> None:
    """One row per image: it, the start, the reconstruction, and on request the error."""
    starts = {BlockSampling: "Φᵀy, rescaled", ParallelBeam: "filtered back projection"}
    start = starts.get(type(model.operator), "Φᵀy")
    count = 4 if error else 3
    size = (3 * count, 3.25 * len(paths))
    figure, axes = plt.subplots(len(paths), count, figsize=size, constrained_layout=True)
    for row, path in zip(np.atleast_2d(axes), paths, strict=True):
        images = columns(model, luma(read_pixels(path)))
        titles = [path.stem]
        for label, image in zip((start, "reconstruction"), images[1:], strict=True):
            titles.append(f"{label}: {metrics.score(image, images[0]).psnr:.2f} dB")
        for axis, title, image in zip(row, titles, images, strict=False):
            axis.imshow(np.clip(image, 0, 255), cmap="gray", vmin=0, vmax=255)
            axis.set_title(title)
        if error:
            difference = np.abs(np.clip(images[2], 0, 255) - images[0])
            row[3].imshow(difference, cmap="gray", vmin=0, vmax=LARGEST_ERROR)
            row[3].set_title(f"error, white = {LARGEST_ERROR / 255:.1f}")
    for axis in np.ravel(axes):
        axis.axis("off")
    write_figure(output, figure, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
