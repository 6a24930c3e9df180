"""A row of reconstructions of one image, with zoomed boxes and scores."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lgmnet import metrics
from lgmnet.data.color import luma
from lgmnet.data.datasets import NamedImage
from lgmnet.data.images import EXTENSIONS, read_pixels
from lgmnet.data.values import protocol_scale
from lgmnet.evaluation.rebuild import Rules, evaluate_image
from lgmnet.metrics import Score, find_protocol
from lgmnet.papers.style import TWO_COLUMNS
from lgmnet.runtime import Runtime
from lgmnet.weights.saved import find_weights

# Height of the two lines above an image, in inches.
TITLE = 0.4
BOX = re.compile(r"(\d+),(\d+),(\d+)")
# Colours of the boxes; they differ also in lightness.
COLOURS = ("#ff5a36", "#35c2ff", "#ffd23f")


class Box(NamedTuple):
    """A square part of an image, in pixels."""

    top: int
    left: int
    side: int

    def of(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[self.top : self.top + self.side, self.left : self.left + self.side]


class Shown(NamedTuple):
    """One column: label, pixels ``(H, W)`` on 0..255, and score (None for the truth)."""

    label: str
    pixels: np.ndarray
    score: Score | None = None

    @property
    def title(self) -> str:
        if self.score is None:
            return f"{self.label}\nPSNR (dB) / SSIM"
        return f"{self.label}\n{self.score.psnr:.2f} / {self.score.ssim:.4f}"


def parse_box(text: str) -> Box:
    """``top,left,side`` in pixels.

    Raises:
        ValueError: other text, or no pixels.
    """
    match = BOX.fullmatch(text)
    if match is None or int(match[3]) == 0:
        raise ValueError(f"the box is '{text}', expected top,left,side in pixels: 60,120,48")
    return Box(*map(int, match.groups()))


def check_box(box: Box, shape: tuple[int, ...], inside: Box | None = None) -> None:
    """Raise ValueError unless a box lies in the image, and in the part of it that is shown."""
    top, left, height, width = (0, 0, *shape[:2])
    if inside is not None:
        top, left, height, width = inside.top, inside.left, inside.side, inside.side
    bottom, right = box.top + box.side, box.left + box.side
    if box.top < top or box.left < left or bottom > top + height or right > left + width:
        raise ValueError(
            f"the box {','.join(map(str, box))} ends at row {bottom} and column {right}, outside "
            f"the shown rows {top} to {top + height} and columns {left} to {left + width}"
        )


def truth(path: Path) -> Shown:
    """The luma of an image file."""
    pixels = luma(read_pixels(path))
    return Shown("truth", protocol_scale(pixels).astype(np.float64))


def reconstruct(name: str, path: Path, here: Runtime) -> Shown:
    """A reconstruction by weights, under the rules of their config, or from a saved image.

    Raises:
        ValueError: no such weights, they cannot measure the image, or a saved image has another
            size than the truth.
    """
    pixels = luma(read_pixels(path))
    if Path(name).suffix.lower() in EXTENSIONS:
        return _saved(Path(name), protocol_scale(pixels))
    weights = find_weights(name)
    rules = weights.config.evaluation
    how = Rules(find_protocol(rules.protocol), padding=rules.padding)
    model = weights.load().to(here.device).eval()
    [result] = evaluate_image(model, NamedImage(path.stem, pixels), here, [how])
    if result.pixels.shape != pixels.shape:
        raise ValueError(f"{name} crops {path} to {result.pixels.shape}; give an image that fits")
    return Shown(weights.name, result.pixels, result.score)


def _saved(file: Path, target: np.ndarray) -> Shown:
    rebuilt = protocol_scale(luma(read_pixels(file))).astype(np.float64)
    if rebuilt.shape != target.shape:
        raise ValueError(f"{file} has {rebuilt.shape} pixels, but the truth {target.shape}")
    return Shown(file.stem, rebuilt, metrics.score(rebuilt, target))


def draw(
    plt: Any,
    rows: Sequence[Sequence[Shown]],
    boxes: Sequence[Sequence[Box]],
    regions: Sequence[Box | None],
    width: float = TWO_COLUMNS,
) -> Any:
    """A figure with one row for each image; its zoomed boxes stand below it.

    Args:
        rows: for each image the truth and its reconstructions.
        boxes: for each image the parts that are shown again, enlarged; at most three.
        regions: for each image the part that is shown, or None for the whole image.
        width: in inches.
    """
    count = max(map(len, rows))
    heights, side = [], width / count
    for row, zooms, region in zip(rows, boxes, regions, strict=True):
        height, wide = row[0].pixels.shape if region is None else (region.side, region.side)
        heights += [side * height / wide + TITLE] + ([side / len(zooms)] if zooms else [])
    figure = plt.figure(figsize=(width, sum(heights)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, hspace=0, wspace=0)
    lines = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat)
    for row, zooms, region in zip(rows, boxes, regions, strict=True):
        _images(next(lines), row, count, zooms, region)
        if zooms:
            _zooms(next(lines), row, count, zooms)
    return figure


def _images(part: Any, row: Sequence[Shown], count: int, boxes: Sequence[Box], region: Any) -> None:
    for axis, shown in zip(part.subplots(1, count, squeeze=False)[0], row, strict=False):
        pixels = shown.pixels if region is None else region.of(shown.pixels)
        _show(axis, pixels)
        axis.set_title(shown.title)
        axis.set_anchor("S")  # the room above it is for the title
        top, left = (0, 0) if region is None else (region.top, region.left)
        for box, colour in zip(boxes, COLOURS, strict=False):
            corner = (box.left - left - 0.5, box.top - top - 0.5)
            axis.add_patch(_frame(corner, box.side, colour))


def _zooms(part: Any, row: Sequence[Shown], count: int, boxes: Sequence[Box]) -> None:
    axes = part.subplots(1, count * len(boxes), squeeze=False)[0]
    pairs = [(shown, k) for shown in row for k in range(len(boxes))]
    for axis in axes[len(pairs) :]:
        axis.axis("off")
    for axis, (shown, k) in zip(axes, pairs, strict=False):
        _show(axis, boxes[k].of(shown.pixels))
        axis.set_anchor("N")
        axis.add_patch(_frame((-0.5, -0.5), boxes[k].side, COLOURS[k]))


def _show(axis: Any, pixels: np.ndarray) -> None:
    axis.imshow(np.clip(pixels, 0, 255), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.axis("off")


def _frame(corner: tuple[float, float], side: int, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=1.2)
