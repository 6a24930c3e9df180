"""Estimates of a network on its way to the image.

A network calls `show` after every step. Without a watcher this is one comparison, and no estimate
is kept.
"""

import inspect
from typing import NamedTuple

import torch
from torch import Tensor

from lgmnet.models.base import Watch
from lgmnet.models.sensing import SensingModel
from lgmnet.unfolding.blocks import join_blocks

# Name of the estimate before the first step.
FIRST = "start"


def stage_name(index: int) -> str:
    """The name of stage ``index``, which counts from 0."""
    return f"stage {index + 1}"


def show(watch: Watch | None, image: Tensor, name: str) -> None:
    """Give an estimate to the watcher, if there is one."""
    if watch is not None:
        watch(image, name)


def ignore(*_: object) -> None:
    """A watcher of features that does nothing."""


def watch_blocks(watch: Watch | None, rows: int, columns: int) -> Watch | None:
    """A watcher for a network that works on separate blocks: it joins them to images."""
    if watch is None:
        return None
    return lambda blocks, name: watch(join_blocks(blocks, rows, columns), name)


class Iterate(NamedTuple):
    """An estimate.

    name: of the step that has computed it, such as ``stage 3``.
    image: ``(batch, channels, H, W)``, 1.0 is white, not clipped.
    number: of the estimate, counted from 0.
    """

    name: str
    image: Tensor
    number: int = 0


@torch.no_grad()
def iterates(model: SensingModel, measurement: Tensor, most: int = 64) -> list[Iterate]:
    """The estimates of a model, first to last; the last one is `SensingModel.reconstruct`'s.

    A network that does not call its watcher has one estimate, its result.

    Args:
        measurement: y ``(batch, *measurement_shape)`` by the operator of the model.
        most: of more estimates, only every second, fourth, … is kept, and the last. So an algorithm
            of a thousand iterations does not fill the memory.
    """
    found: list[Iterate] = []
    last = Iterate("result", measurement, -1)
    watched = "watch" in inspect.signature(model.network.forward).parameters
    stride = 1

    def watch(image: Tensor, name: str) -> None:
        nonlocal found, last, stride
        last = Iterate(name, image[..., :height, :width], last.number + 1)
        if last.number % stride == 0:
            found.append(last)
        if len(found) > most:
            found, stride = found[::2], 2 * stride

    height, width = model.operator.size or (None, None)  # a canvas may be larger than the image
    arguments = (watch,) if watched else ()
    result = model.network(measurement, model.operator.on_canvas(), *arguments)
    if last.number < 0:
        return [Iterate("result", result.image[..., :height, :width])]
    return found if found[-1] is last else [*found, last]
