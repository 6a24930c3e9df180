"""The figures that ``lgmnet figure`` draws."""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from lgmnet import runtime
from lgmnet.data import builtin
from lgmnet.data.datasets import TestSet, find_images, open_test_set
from lgmnet.evaluation.rebuild import Rules
from lgmnet.metrics import find_protocol
from lgmnet.papers import crops, curves
from lgmnet.papers.collect import collect, columns
from lgmnet.papers.style import ONE_COLUMN, plotting, save
from lgmnet.reports.examine import examine
from lgmnet.results import read_results
from lgmnet.runtime import Runtime
from lgmnet.weights.saved import find_weights


def draw(arguments: argparse.Namespace) -> None:
    """Draw and write the figure that the arguments of the command describe.

    Raises:
        ValueError: there is no such image, weights or result, or they do not fit together.
    """
    kinds = {
        "crops": draw_crops, "ratio": draw_ratio, "cost": draw_cost, "stages": draw_stages,
        "experiment": draw_experiment,
    }  # fmt: skip
    with plotting() as plt:
        save(arguments.output, kinds[arguments.kind](plt, arguments))


def draw_crops(plt: Any, arguments: argparse.Namespace) -> Any:
    (image, *names), labels = arguments.inputs, arguments.labels
    if not names:
        raise ValueError("name weights or saved images after the image: crops photo.png my_weights")
    if loose := [name for name in names if crops.BOX.fullmatch(name)]:
        raise ValueError(f"'{loose[0]}' is a box; write --box before each box: --box {loose[0]}")
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
    path = find_image(image)
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
    methods = collect(arguments.inputs, arguments.labels)
    found = columns(methods)
    return curves.over_ratio(plt, methods, arguments.data or found[0].dataset)


def draw_cost(plt: Any, arguments: argparse.Namespace) -> Any:
    methods = collect(arguments.inputs, arguments.labels)
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


def draw_experiment(plt: Any, arguments: argparse.Namespace) -> Any:
    [path, *others] = map(Path, arguments.inputs)
    content = read_results(path)
    if others or "columns" not in content:
        raise ValueError(f"{path} is no experiment; name one file, as experiment.py writes it")
    sets = (column.rpartition(" ")[0] for column in content["columns"] if " " in column)
    dataset = arguments.data or next(sets, "validation")
    return curves.over_parameters(plt, content, dataset)


def draw_stages(plt: Any, arguments: argparse.Namespace) -> Any:
    labels = arguments.labels or arguments.inputs
    if len(labels) != len(arguments.inputs):
        raise ValueError(f"{len(labels)} labels for {len(arguments.inputs)} weights; give one each")
    images = open_test_set(arguments.data or "builtin", runtime.data_roots())
    with runtime.start(arguments.device) as here:
        runtime.announce(here, sys.stderr)
        found = [psnr_of_stages(name, images, here) for name in arguments.inputs]
    return curves.over_stages(plt, dict(zip(labels, found, strict=True)), images.name)


def psnr_of_stages(name: str, images: TestSet, here: Runtime) -> list[float]:
    """PSNR of the estimate after each stage, from the start on: the mean over the images.

    Raises:
        ValueError: the network shows no estimate before its result.
    """
    weights = find_weights(name)
    own, model = weights.config.evaluation, weights.load().to(here.device)
    rules = Rules(find_protocol(own.protocol), own.color, own.padding)
    rows = [[step.psnr for step in examine(model, i, rules, 2).estimates] for i in images]
    if len(rows[0]) < 2:
        raise ValueError(f"{name} has one estimate, its result; the figure needs several")
    return [statistics.fmean(column) for column in zip(*rows, strict=False)]
