"""Test set -> reconstructions -> metrics per image."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lgmnet import metrics
from lgmnet.data import color
from lgmnet.data.datasets import NamedImage, TrainingImages
from lgmnet.data.transforms import crop_back, pad_to_block
from lgmnet.metrics import Protocol, Score
from lgmnet.models import SensingModel
from lgmnet.runtime import Runtime, without_compilation


class Rules(NamedTuple):
    """How images are measured and scored; see `EvaluationConfig` for the names.

    consistency: also compare the reconstruction with its measurement.
    """

    protocol: Protocol = metrics.PROTOCOLS["paper"]
    color: str = "luma"
    padding: str = "zeros"
    consistency: bool = False

    @property
    def reconstruction(self) -> tuple[str, str, bool, bool]:
        """Under rules that agree in this an image is rebuilt alike."""
        return self.color, self.padding, self.consistency, self.protocol.always_pad


PAPER = Rules()


class Consistency(NamedTuple):
    """How well a reconstruction fits its measurement.

    residual: ‖Φx̂ − y‖ / ‖y‖, before clipping; the mean over the planes of a colour image.
    psnr: of the image closest to x̂ that Φ measures as y, in dB.
    """

    residual: float
    psnr: float


class Result(NamedTuple):
    """One image: its score, the seconds of measuring and rebuilding it, its pixels (0..255)."""

    name: str
    score: Score
    seconds: float
    pixels: np.ndarray
    consistency: Consistency | None = None


class Plane(NamedTuple):
    """One plane ``(H, W)``, 0..255: rebuilt, made consistent with y, and its residual."""

    rebuilt: np.ndarray
    consistent: np.ndarray | None = None
    residual: float = 0.0


class Rebuilt(NamedTuple):
    """The planes of one image, and the seconds of measuring and rebuilding them."""

    planes: list[Plane]
    seconds: float


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
        yield evaluate_image(model, image, runtime, [rules])[0]


def evaluate_image(
    model: SensingModel, image: NamedImage, runtime: Runtime, rules: Sequence[Rules]
) -> list[Result]:
    """One image under each of several rules; what they have in common is rebuilt once."""
    different = {each.reconstruction: each for each in rules}
    rebuilt = {key: rebuild(model, image, each, runtime) for key, each in different.items()}
    return [score_image(image, rebuilt[each.reconstruction], each) for each in rules]


def rebuild(model: SensingModel, image: NamedImage, rules: Rules, runtime: Runtime) -> Rebuilt:
    """Measure and rebuild the planes of one image."""
    start = time.perf_counter()
    planes = [
        reconstruct_plane(model, plane, rules, runtime, f"{image.name}:{k}")
        for k, plane in enumerate(color.channels(image.pixels, rules.color))
    ]
    runtime.synchronise()
    return Rebuilt(planes, time.perf_counter() - start)


def score_image(image: NamedImage, rebuilt: Rebuilt, rules: Rules) -> Result:
    """Score what was rebuilt."""
    pixels = color.join([plane.rebuilt for plane in rebuilt.planes])
    target = image.pixels if rules.color == "rgb" else color.luma(image.pixels)
    score = metrics.score(pixels, target, rules.protocol)
    consistency = _consistency(rebuilt.planes, target, rules)
    return Result(image.name, score, rebuilt.seconds, pixels, consistency)


@torch.inference_mode()
def reconstruct_plane(
    model: SensingModel, plane: np.ndarray, rules: Rules, runtime: Runtime, name: str
) -> Plane:
    """Measure one ``(H, W)`` uint8 plane and rebuild it: float64 on 0..255, not clipped."""
    image = torch.from_numpy(np.ascontiguousarray(plane)).to(runtime.device)
    image = image[None, None].float() / 255
    operator = model.operator
    padded = pad_to_block(image, model.multiple, rules.padding, rules.protocol.always_pad)
    measurement = model.measure(padded, name)
    rebuilt = model.reconstruct(measurement)

    def pixels(image: Tensor) -> np.ndarray:
        return crop_back(image, *plane.shape)[0, 0].double().cpu().numpy() * 255

    if not rules.consistency:
        return Plane(pixels(rebuilt))
    # A black image has y = 0: then any error counts in full.
    scale = measurement.norm() if measurement.any() else torch.ones(())
    residual = (operator(rebuilt) - measurement).norm() / scale
    projected = operator.project(rebuilt, measurement)
    return Plane(pixels(rebuilt), pixels(projected), float(residual))


def _consistency(planes: list[Plane], target: np.ndarray, rules: Rules) -> Consistency | None:
    consistent = [plane.consistent for plane in planes if plane.consistent is not None]
    if not consistent:
        return None
    score = metrics.score(color.join(consistent), target, rules.protocol)
    return Consistency(float(np.mean([plane.residual for plane in planes])), score.psnr)


def validate(
    model: SensingModel,
    images: TrainingImages,
    runtime: Runtime,
    limit: int,
    show: Callable[[int, Tensor | np.ndarray], None] | None = None,
) -> Score:
    """Mean score of validation images, protocol ``paper``; a compiled network runs uncompiled.

    Args:
        limit: at most so many images.
        show: receives index and reconstruction ``(H, W)`` in [0, 1] of each image.
    """
    was_training = model.training
    model.eval()
    count = min(limit, len(images.names))
    samples = (NamedImage(images.names[k], np.array(images.read(k))) for k in range(count))
    scores = []
    with without_compilation(model.network):
        for k, result in enumerate(evaluate(model, samples, runtime)):
            scores.append(result.score)
            if show is not None:
                show(k, result.pixels / 255)
    model.train(was_training)
    return metrics.summarise(scores)
