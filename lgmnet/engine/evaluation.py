"""Test set -> reconstructions -> metrics per image."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lgmnet import metrics
from lgmnet.data import color
from lgmnet.data.datasets import NamedImage, TrainingImages
from lgmnet.data.transforms import crop_back, pad_to_block
from lgmnet.engine.runtime import Runtime
from lgmnet.metrics import Protocol, Score
from lgmnet.models import SensingModel


class Rules(NamedTuple):
    """How images are measured and scored; see `EvaluationConfig` for the names."""

    protocol: Protocol = metrics.PROTOCOLS["paper"]
    color: str = "luma"
    padding: str = "zeros"


PAPER = Rules()


class Result(NamedTuple):
    """One image: its score, the seconds its reconstruction took, and its pixels (0..255)."""

    name: str
    score: Score
    seconds: float
    pixels: np.ndarray


def evaluate(
    model: SensingModel,
    images: Iterable[NamedImage],
    runtime: Runtime,
    rules: Rules = PAPER,
) -> Iterator[Result]:
    """Measure, rebuild and score one image after the other, in float32.

    The model must be in evaluation mode and on the runtime's device.
    """
    for image in images:
        start = time.perf_counter()
        planes = [
            reconstruct_plane(model, plane, rules, runtime, f"{image.name}:{k}")
            for k, plane in enumerate(color.channels(image.pixels, rules.color))
        ]
        runtime.synchronise()
        seconds = time.perf_counter() - start
        pixels = color.join(planes)
        target = image.pixels if rules.color == "rgb" else color.luma(image.pixels)
        yield Result(image.name, metrics.score(pixels, target, rules.protocol), seconds, pixels)


@torch.inference_mode()
def reconstruct_plane(
    model: SensingModel, plane: np.ndarray, rules: Rules, runtime: Runtime, name: str
) -> np.ndarray:
    """Measure one ``(H, W)`` uint8 plane and rebuild it: float64 on 0..255, not clipped."""
    height, width = plane.shape
    image = torch.from_numpy(np.ascontiguousarray(plane)).to(runtime.device)
    image = image[None, None].float() / 255
    multiple = model.operator.multiple
    padded = pad_to_block(image, multiple, rules.padding, rules.protocol.always_pad)
    rebuilt = model.reconstruct(model.measure(padded, name))
    return crop_back(rebuilt, height, width)[0, 0].double().cpu().numpy() * 255


def validate(
    model: SensingModel,
    images: TrainingImages,
    runtime: Runtime,
    limit: int,
    show: Callable[[int, Tensor | np.ndarray], None] | None = None,
) -> Score:
    """Mean score of validation images, protocol ``paper``.

    Args:
        limit: at most so many images.
        show: receives index and reconstruction ``(H, W)`` in [0, 1] of each image.
    """
    was_training = model.training
    model.eval()
    count = min(limit, len(images.names))
    samples = (NamedImage(images.names[k], np.array(images.read(k))) for k in range(count))
    scores = []
    for k, result in enumerate(evaluate(model, samples, runtime)):
        scores.append(result.score)
        if show is not None:
            show(k, result.pixels / 255)
    model.train(was_training)
    return metrics.summarise(scores)
