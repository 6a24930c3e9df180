"""Draw images, Φᵀy and their reconstructions: the figure of README, or of own images.

Without --images it draws a built-in photograph: truth, Φᵀy, a rival and --weights, with zooms.
`lgmnet figure` draws figures for papers. In place of Φᵀy, tomography has filtered back projection,
and super-resolution the enlarged y.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import metrics, runtime
from lgmnet.data import builtin, color
from lgmnet.data.datasets import find_images
from lgmnet.data.images import read_pixels
from lgmnet.data.transforms import channels_first, channels_last, crop_back, pad_to_block
from lgmnet.data.values import from_unit, protocol_scale, to_unit
from lgmnet.files import write_figure
from lgmnet.metrics import Protocol
from lgmnet.models import SensingModel
from lgmnet.operators import BlockSampling, BlurDown, LinearOperator, ParallelBeam
from lgmnet.papers import crops
from lgmnet.papers.crops import Box, Shown
from lgmnet.papers.style import plotting
from lgmnet.runtime import Runtime, device_of
from lgmnet.weights.saved import find_weights

# A built-in image, the part that is shown, and the part that is enlarged.
SHOWN = {"astronaut.png": (Box(0, 96, 256), Box(60, 190, 64))}
# Black in an error map is no error, white an error of so much, on 0..255.
LARGEST_ERROR = 25.5
STARTS = {
    BlockSampling: "Φᵀy, rescaled",
    ParallelBeam: "filtered back projection",
    BlurDown: "y, enlarged",
}


def columns(model: SensingModel, pixels: np.ndarray) -> list[np.ndarray]:
    """The image, the start and the reconstruction: 0..255, ``(H, W)`` or RGB ``(H, W, 3)``."""
    operator = model.operator
    [plane] = color.channels(pixels, color.policy_for(operator.channels))
    if isinstance(operator, BlurDown):  # its blur is circular, so an image is not padded
        height, width = (side - side % model.multiple for side in plane.shape[:2])
        plane = plane[:height, :width]
    image = to_unit(channels_first(plane).to(device_of(model)))[None]
    padded = image if operator.size else pad_to_block(image, model.multiple)
    with torch.inference_mode():
        y = model.measure(padded)
        images = [start(operator, y, padded), model.reconstruct(y)]
    shape = plane.shape[:2]
    rebuilt = [channels_last(from_unit(crop_back(i, *shape)[0])) for i in images]
    return [protocol_scale(plane).astype(np.float64), *rebuilt]


def start(operator: LinearOperator, y: Tensor, image: Tensor) -> Tensor:
    """The image that is drawn between truth and reconstruction; see `STARTS`.

    The rows of a learned Φ have no unit norm; one factor brings Φᵀy to the scale of the image.
    """
    if isinstance(operator, ParallelBeam):
        return operator.fbp(y)
    if isinstance(operator, BlurDown):
        return operator.nearest(y)
    adjoint = operator.adjoint(y)
    if isinstance(operator, BlockSampling):
        return adjoint * (adjoint * image).sum() / adjoint.square().sum()
    return adjoint


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
    parser.add_argument("--at", help="condition, for a network with several: x2_k2")
    parser.add_argument("--region", help="part of --images that is drawn: top,left,side in pixels")
    parser.add_argument("--output", type=Path, default=Path("docs/figure.png"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_args()
    try:
        weights = find_weights(arguments.weights)
        roots = runtime.data_roots()
        paths = [path for name in arguments.images for path in find_images(name, roots)]
        with runtime.start(arguments.device) as here:
            runtime.announce(here, sys.stderr)
            model = weights.load(arguments.at).to(here.device)
            if paths:
                region = crops.parse_box(arguments.region) if arguments.region else None
                protocol = metrics.find_protocol(weights.config.evaluation.protocol)
                draw(model, protocol, paths, arguments.error, region, arguments.output)
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
        image, adjoint, _ = columns(model, read_pixels(path))
        first = [
            Shown(path.stem, image),
            Shown("Φᵀy, rescaled", adjoint, metrics.score(adjoint, image)),
        ]
        rows.append([*first, *(crops.reconstruct(name, path, here) for name in names)])
    regions, boxes = zip(*SHOWN.values(), strict=True)
    with plotting() as plt:
        figure = crops.draw(plt, rows, [[box] for box in boxes], regions)
        write_figure(output, figure, dpi=240)


def draw(
    model: SensingModel,
    protocol: Protocol,
    paths: list[Path],
    error: bool,
    region: Box | None,
    output: Path,
) -> None:
    """One row per image: it, the start, the reconstruction, and on request the error.

    The scores are of whole images.
    """
    label = STARTS.get(type(model.operator), "Φᵀy")
    interpolation = "nearest" if region else None
    count = 4 if error else 3
    size = (3 * count, 3.25 * len(paths))
    figure, axes = plt.subplots(len(paths), count, figsize=size, constrained_layout=True)
    for row, path in zip(np.atleast_2d(axes), paths, strict=True):
        images = columns(model, read_pixels(path))
        titles = [path.stem]
        for name, image in zip((label, "reconstruction"), images[1:], strict=True):
            titles.append(f"{name}: {metrics.score(image, images[0], protocol).psnr:.2f} dB")
        if region:
            crops.check_box(region, images[0].shape)
            images = [region.of(image) for image in images]
        for axis, title, image in zip(row, titles, images, strict=False):
            shown = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
            axis.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation=interpolation)
            axis.set_title(title)
        if error:
            difference = np.abs(np.clip(images[2], 0, 255) - images[0])
            difference = difference.max(axis=2) if difference.ndim == 3 else difference
            row[3].imshow(
                difference, cmap="gray", vmin=0, vmax=LARGEST_ERROR, interpolation=interpolation
            )
            row[3].set_title(f"error, white = {LARGEST_ERROR / 255:.1f}")
    for axis in np.ravel(axes):
        axis.axis("off")
    write_figure(output, figure, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
