"""Draw a figure for a paper: PDF, PNG or SVG, with embedded fonts.

crops: an image and its reconstructions, with zoomed boxes and scores.
ratio: PSNR over the sampling ratio. cost: PSNR over parameters and FLOPs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgmnet import runtime
from lgmnet.data import builtin
from lgmnet.data.datasets import find_images
from lgmnet.papers import crops, curves
from lgmnet.papers.collect import collect, columns
from lgmnet.papers.style import ONE_COLUMN, TWO_COLUMNS, check_output, plotting, save

EXAMPLES = """examples:
  lgmnet figure crops builtin/coffee.png ista_net_plus_5_r0.10 lgm_net_tiny_r0.10 \\
      --box 150,300,64 --labels ISTA-Net⁺ LGM-Net --output crops.pdf
  lgmnet figure ratio lgm_net_tiny_all_ratios lgm_net_tiny_r0.10 --data Set11 --output ratio.pdf
  lgmnet figure cost lgm_net_tiny_r0.10 ista_net_plus_5_r0.10 --data Set11 --output cost.pdf
"""


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    try:
        check_output(arguments.output)
        with plotting() as plt:
            figure = arguments.draw(plt, arguments)
            save(arguments.output, figure)
    except (ValueError, OSError) as error:
        print(f"lgmnet figure: {error}", file=sys.stderr)
        return 1
    print(f"written to {arguments.output}")
    return 0


def parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(
        prog="lgmnet figure", description=__doc__, epilog=EXAMPLES, formatter_class=style
    )
    kinds = found.add_subparsers(required=True, metavar="crops|ratio|cost")
    part = kinds.add_parser("crops", help="an image and its reconstructions")
    part.add_argument("image", help="an image file, Set11[3:4] or builtin/coffee.png")
    part.add_argument(
        "reconstructions", nargs="+", help="weights, or saved image files of the same size"
    )
    part.add_argument(
        "--box", action="append", default=[], metavar="TOP,LEFT,SIDE",
        help="a part to enlarge, in pixels; at most three",
    )  # fmt: skip
    part.add_argument("--region", metavar="TOP,LEFT,SIDE", help="show only this part")
    part.add_argument("--width", type=float, default=TWO_COLUMNS, help="of the figure, in inches")
    part.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    _common(part, draw_crops)
    for name, draw in (("ratio", draw_ratio), ("cost", draw_cost)):
        part = kinds.add_parser(name, help=f"PSNR over {'the ratio' if name == 'ratio' else name}")
        part.add_argument("results", nargs="+", help="as for lgmnet table")
        part.add_argument("--data", help="test set (default: the first)")
        if name == "cost":
            part.add_argument("--ratio", type=float, help="default: the first")
        _common(part, draw)
    return found


def _common(part: argparse.ArgumentParser, draw: Any) -> None:
    part.add_argument("--labels", nargs="+", default=[], help="names in the figure, one for each")
    part.add_argument("--output", type=Path, required=True, help="a .pdf, .png or .svg file")
    part.set_defaults(draw=draw)


def draw_crops(plt: Any, arguments: argparse.Namespace) -> Any:
    names, labels = arguments.reconstructions, arguments.labels
    if labels and len(labels) != len(names):
        raise ValueError(
            f"{len(labels)} labels for {len(names)} reconstructions; give one for each"
        )
    boxes = [crops.parse_box(text) for text in arguments.box]
    region = crops.parse_box(arguments.region) if arguments.region else None
    if len(boxes) > len(crops.COLOURS):
        raise ValueError(f"{len(boxes)} boxes, expected at most {len(crops.COLOURS)}")
    if not ONE_COLUMN / 2 <= arguments.width <= 40:
        raise ValueError(f"--width is {arguments.width} inches, expected 1.75 to 40")
    path = find_image(arguments.image)
    row = [crops.truth(path)]
    shape = row[0].pixels.shape
    if region is not None:
        crops.check_box(region, shape)
    for box in boxes:
        crops.check_box(box, shape, region)
    with runtime.start(arguments.device) as here:
        runtime.announce(here, sys.stderr)
        row += [crops.reconstruct(name, path, here) for name in names]
    titles = ["truth", *(labels or [shown.label for shown in row[1:]])]
    row = [shown._replace(label=title) for shown, title in zip(row, titles, strict=True)]
    return crops.draw(plt, [row], [boxes], [region], arguments.width)


def find_image(name: str) -> Path:
    """One image: a file, a part of a set such as ``Set11[3:4]``, or ``builtin/coffee.png``.

    Raises:
        ValueError: there is no such image, or there are several.
    """
    folder, _, file = name.partition("/")
    if folder == "builtin" and file in builtin.TEST + builtin.TRAIN:
        return builtin.paths((file,))[0]
    paths = find_images(name, runtime.data_roots())
    if len(paths) != 1:
        raise ValueError(f"'{name}' holds {len(paths)} images; name one: a file, or Set11[3:4]")
    return paths[0]


def draw_ratio(plt: Any, arguments: argparse.Namespace) -> Any:
    methods = collect(arguments.results, arguments.labels)
    found = columns(methods)
    return curves.over_ratio(plt, methods, arguments.data or found[0].dataset)


def draw_cost(plt: Any, arguments: argparse.Namespace) -> Any:
    methods = collect(arguments.results, arguments.labels)
    found = columns(methods)
    chosen = [
        column
        for column in found
        if arguments.data in (None, column.dataset) and arguments.ratio in (None, column.at)
    ]
    if not chosen:
        known = ", ".join(map(str, found))
        raise ValueError(f"no result has this test set and ratio; there are {known}")
    return curves.over_cost(plt, methods, chosen[0])


if __name__ == "__main__":
    sys.exit(main())
