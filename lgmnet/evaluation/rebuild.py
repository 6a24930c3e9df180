"""Reconstruct the images of a test set, and score every image."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lgmnet import metrics
from lgmnet.data import color
from lgmnet.data.datasets import NamedImage, TrainingImages
from lgmnet.data.transforms import (
    channels_first,
    channels_last,
    crop_back,
    crop_to_blocks,
    pad_to_block,
)
from lgmnet.data.values import from_protocol_scale, from_unit, protocol_scale, to_unit
from lgmnet.metrics import Protocol, Score
from lgmnet.models import SensingModel
from lgmnet.operators import LinearOperator
from lgmnet.runtime import Runtime, without_compilation


class Rules(NamedTuple):
    """Rules for measuring and scoring images; see `EvaluationConfig` for the names.

    consistency: also compare the reconstruction with its measurement.
    """

    protocol: Protocol = metrics.PROTOCOLS["paper"]
    color: str = "luma"
    padding: str = "zeros"
    consistency: bool = False

    @property
    def reconstruction(self) -> tuple[str, str, bool, bool]:
        """The rules that affect the reconstruction. If they are equal, so is the reconstruction."""
        return self.color, self.padding, self.consistency, self.protocol.always_pad


PAPER = Rules()


class Consistency(NamedTuple):
    """How well a reconstruction fits its measurement.

    residual: ‖Φx̂ − y‖ / ‖y‖, before clipping; the mean over the planes of a colour image.
    psnr: PSNR in dB of the closest image to x̂ that satisfies Φx = y.
    """

    residual: float
    psnr: float


class Result(NamedTuple):
    """One image: score, seconds for measurement and reconstruction, and pixels (0..255).

    seams: error beside the borders of blocks over the error inside them, see `metrics.seams`; None
        for an operator without blocks.
    padding: of the pixels, if it is not the padding of the rules.
    """

    name: str
    score: Score
    seconds: float
    pixels: np.ndarray
    consistency: Consistency | None = None
    seams: float | None = None
    padding: str | None = None


class Plane(NamedTuple):
    """The reconstruction of channels that were measured together, 0..255.

    Arrays are ``(H, W)``, or ``(H, W, C)`` in the order of `color.channels`. ``consistent`` is the
    reconstruction after projection onto Φx = y. ``residual`` is ‖Φx̂ − y‖ / ‖y‖.
    """

    rebuilt: np.ndarray
    consistent: np.ndarray | None = None
    residual: float = 0.0


class Rebuilt(NamedTuple):
    """The planes of one image, and the seconds for their measurement and reconstruction.

    block: side of the blocks of the operator; None if it has none.
    """

    planes: list[Plane]
    seconds: float
    block: int | None = None


def evaluate(
    model: SensingModel,
    images: Iterable[NamedImage],
    runtime: Runtime,
    rules: Rules = PAPER,
) -> Iterator[Result]:
    """Measure, reconstruct and score one image after the other, in float32.

    The model must be in evaluation mode and on the runtime's device.
    """
    for image in images:
        yield evaluate_image(model, image, runtime, [rules])[0]


def evaluate_image(
    model: SensingModel, image: NamedImage, runtime: Runtime, rules: Sequence[Rules]
) -> list[Result]:
    """One image under each of several rules. Rules with equal reconstructions share one."""
    different = {each.reconstruction: each for each in rules}
    rebuilt = {key: rebuild(model, image, each, runtime) for key, each in different.items()}
    return [score_image(image, rebuilt[each.reconstruction], each) for each in rules]


def rebuild(model: SensingModel, image: NamedImage, rules: Rules, runtime: Runtime) -> Rebuilt:
    """Measure and reconstruct the planes of one image."""
    start = time.perf_counter()
    planes = [
        reconstruct_plane(model, plane, rules, runtime, f"{image.name}:{k}")
        for k, plane in enumerate(color.channels(image.pixels, rules.color))
    ]
    runtime.synchronise()
    block = model.operator.sizes().get("block_size")
    return Rebuilt(planes, time.perf_counter() - start, block)


def score_image(image: NamedImage, rebuilt: Rebuilt, rules: Rules) -> Result:
    """Score the reconstruction of one image."""
    pixels = color.join([plane.rebuilt for plane in rebuilt.planes])
    height, width = pixels.shape[:2]
    target = protocol_scale(color.join(color.channels(image.pixels, rules.color)))
    target = target[:height, :width]  # without the pixels that were cropped before measuring
    score = metrics.score(pixels, target, rules.protocol)
    consistency = _consistency(rebuilt.planes, target, rules)
    ratio = None
    if rebuilt.block is not None:
        ratio = metrics.seams(pixels, target, rebuilt.block, rules.protocol.clip)
    return Result(image.name, score, rebuilt.seconds, pixels, consistency, ratio)


@torch.inference_mode()
def reconstruct_plane(
    model: SensingModel, plane: np.ndarray, rules: Rules, runtime: Runtime, name: str
) -> Plane:
    """Measure and reconstruct one plane, or channels together: 0..255, not clipped.

    Args:
        plane: ``(H, W)`` or ``(H, W, C)``, uint8, uint16 or float32.

    Raises:
        ValueError: the operator does not support its channels or its size.
    """
    image = to_unit(channels_first(plane).to(runtime.device))[None]
    operator = model.operator
    _, channels, *sides = image.shape
    check_channels(operator, channels, f"evaluation.color={rules.color}", sides)
    fitted = fit(image, model, rules)
    measurement = model.measure(fitted, name)
    rebuilt = model.reconstruct(measurement)
    height, width = (min(sides) for sides in zip(fitted.shape[2:], image.shape[2:], strict=True))

    def pixels(image: Tensor) -> np.ndarray:
        return channels_last(from_unit(crop_back(image, height, width)[0]))

    if not rules.consistency:
        return Plane(pixels(rebuilt))
    # A black image has y = 0. Then the residual is not divided.
    scale = measurement.norm() if measurement.any() else torch.ones(())
    residual = (operator(rebuilt) - measurement).norm() / scale
    projected = operator.project(rebuilt, measurement)
    return Plane(pixels(rebuilt), pixels(projected), float(residual))


def check_channels(
    operator: LinearOperator, channels: int, policy: str, sides: Sequence[int] = ()
) -> None:
    """Raise ValueError unless the operator measures ``channels`` channels, set by ``policy``.

    Args:
        sides: height and width of the image, if known. If one of them is the number of channels of
            the operator, the message says that the channels are the last axis of a file.
    """
    if channels != operator.channels:
        raise ValueError(
            f"{policy} gives images of {channels} channels, but {type(operator).__name__} measures "
            f"images of {operator.channels}; {_advice(operator.channels, channels, policy, sides)}"
        )


def _advice(needed: int, channels: int, policy: str, sides: Sequence[int]) -> str:
    key, _, value = policy.partition("=")
    if value == "bands" and needed > 3:
        if needed not in sides:
            return f"use cubes of {needed} bands, or set sampling.bands={channels}"
        axis = ("first", "second")[list(sides).index(needed)]
        return f"the {axis} axis has {needed}, but bands are the last axis: transpose the files"
    better = color.policy_for(needed)
    if value == better:
        return "use other images, or another operator"
    return f"set {key}={better}, or choose another operator"


def fit(image: Tensor, model: SensingModel, rules: Rules) -> Tensor:
    """``(b, C, H, W)`` padded or cropped to whole blocks, or cropped to the operator's size.

    Raises:
        ValueError: the operator needs another size, and the rules do not crop to it.
    """
    size = model.operator.size
    if rules.padding == "crop":
        return crop_to_blocks(image, model.multiple, size)
    if size is None:
        return pad_to_block(image, model.multiple, rules.padding, rules.protocol.always_pad)
    if tuple(image.shape[2:]) != size:
        raise ValueError(
            f"the image has {image.shape[2]} x {image.shape[3]} pixels, but "
            f"{type(model.operator).__name__} measures {size[0]} x {size[1]}; use images of that "
            "size, or evaluation.padding=crop (--padding crop) for larger ones"
        )
    return image


def adds_zeros(model: SensingModel, image: NamedImage, rules: Rules) -> bool:
    """Whether these rules extend the image with zeros, which leaves a seam in a picture."""
    if rules.padding != "zeros" or model.operator.size is not None:
        return False
    parts = any(side % model.multiple for side in image.pixels.shape[:2])
    return parts or rules.protocol.always_pad


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
    """Mean score of validation images. A compiled network runs uncompiled.

    The protocol is ``paper``; for images of two channels, which are complex, it is ``mri``. If the
    operator has a fixed size, images are cropped to it.

    Args:
        limit: largest number of images.
        show: called with index and reconstruction ``(H, W)`` in [0, 1] of each image.
    """
    was_training = model.training
    model.eval()
    count = min(limit, len(images.names))
    # `join` and the rule ``bands`` cancel, so the channels of the images are measured unchanged.
    samples = (
        NamedImage(images.names[k], color.join([np.array(images.read(k))])) for k in range(count)
    )
    protocol = metrics.PROTOCOLS["mri" if images.channels == 2 else "paper"]
    rules = Rules(protocol, "bands", "crop" if model.operator.size else "zeros")
    scores = []
    bar = tqdm(desc="validation", total=count, unit="image", leave=False, disable=None)
    with without_compilation(model.network), bar:
        for k, result in enumerate(evaluate(model, samples, runtime, rules)):
            bar.update()
            scores.append(result.score)
            if show is not None:
                show(k, color.grey_picture(from_protocol_scale(result.pixels)))
    model.train(was_training)
    return metrics.summarise(scores)
