"""How the PSNR of a network changes when the measurement is not the one it was trained for."""

import hashlib
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lgmnet import metrics
from lgmnet.data import color
from lgmnet.data.datasets import NamedImage
from lgmnet.data.transforms import channels_first, channels_last, crop_back
from lgmnet.data.values import from_unit, protocol_scale, to_unit
from lgmnet.evaluation.rebuild import Rules, fit
from lgmnet.models import SensingModel
from lgmnet.operators import BlockSampling, LinearOperator
from lgmnet.runtime import device_of


class Test(NamedTuple):
    """One way to disturb a measurement, at several strengths.

    score: of the axis: ``PSNR (dB)``, or the change of it.
    """

    key: str
    title: str
    axis: str
    values: tuple[float, ...]
    score: str = "PSNR (dB)"


CHANGE = "change of PSNR (dB)"
TESTS = (
    Test("noise", "noise of the measurement", "SNR of y (dB)", (10, 20, 30, 40, 50, 60)),
    Test("bits", "bits per measurement", "bits", (2, 3, 4, 6, 8, 10, 12)),
    Test("mismatch", "another Φ than known", "‖ΔΦ‖ / ‖Φ‖ (%)", (0, 0.3, 1, 2, 3, 5, 10)),
    Test("shift", "image shifted against the blocks", "shift (pixels)", (0, 4, 8, 12, 16), CHANGE),
    Test("size", "part of the image", "side (pixels)", (32, 64, 96, 128, 192, 256), CHANGE),
)


class Point(NamedTuple):
    """The mean score of a test at one value, over ``images`` images."""

    test: str
    value: float
    score: float
    images: int


def robustness(
    model: SensingModel, images: Iterable[NamedImage], rules: Rules, tick: Callable[[], object]
) -> list[Point]:
    """All tests on all images. A test that an operator or image does not allow has no points.

    The tests shift and size compare the same pixels: reconstructed from a part of the image, and
    from the whole image. All random numbers follow from the names of the images.

    Args:
        tick: called after each image.
    """
    scores: dict[tuple[str, float], list[float]] = {}
    for image in images:
        for test, value, score in _of_image(model, image, rules):
            scores.setdefault((test, value), []).append(score)
        tick()
    return [Point(t, v, statistics.fmean(s), len(s)) for (t, v), s in scores.items()]


def _of_image(
    model: SensingModel, image: NamedImage, rules: Rules
) -> Iterator[tuple[str, float, float]]:
    planes = color.channels(image.pixels, rules.color)

    def psnr(name: str, change: "Change" = lambda y, _: y, operator: Op = None) -> float:
        whole = [rebuild(model, p, rules, f"{image.name}:{name}", change, operator) for p in planes]
        return _psnr(whole, planes, rules)

    for value in TESTS[0].values:
        yield "noise", value, psnr("noise", partial(noisy, snr=value))
    for value in TESTS[1].values:
        yield "bits", value, psnr("bits", partial(quantised, bits=value))
    if isinstance(model.operator, BlockSampling):
        for value in TESTS[2].values:
            yield "mismatch", value, psnr("mismatch", operator=mismatched(model.operator, value))
    if model.operator.size is None:
        whole = [rebuild(model, plane, rules, image.name) for plane in planes]
        for key, value, part in parts(planes[0].shape[:2], model.operator.multiple):
            cut = [np.ascontiguousarray(plane[part]) for plane in planes]
            own = [rebuild(model, plane, rules, image.name) for plane in cut]
            usual = _psnr([plane[part] for plane in whole], cut, rules)
            yield key, value, _psnr(own, cut, rules) - usual


Change = Callable[[Tensor, torch.Generator], Tensor]
Op = LinearOperator | None


@torch.inference_mode()
def rebuild(
    model: SensingModel,
    plane: np.ndarray,
    rules: Rules,
    name: str,
    change: Change = lambda y, _: y,
    operator: Op = None,
) -> np.ndarray:
    """Measure a plane by an operator, change y, and reconstruct with the operator of the model.

    Returns:
        The pixels, 0..255, not clipped, with the shape of the plane.
    """
    image = to_unit(channels_first(plane).to(device_of(model)))[None]
    y = model.measure(fit(image, model, rules), name, operator)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    rebuilt = model.reconstruct(change(y, torch.Generator().manual_seed(seed)))
    height, width = (min(s) for s in zip(rebuilt.shape[2:], image.shape[2:], strict=True))
    return channels_last(from_unit(crop_back(rebuilt, height, width)[0]))


def noisy(measurement: Tensor, random: torch.Generator, snr: float) -> Tensor:
    """y with white noise; ``snr`` is the ratio of the mean squares of y and noise, in dB."""
    noise = torch.randn(measurement.shape, generator=random).to(measurement)
    return measurement + noise * measurement.square().mean().sqrt() * 10 ** (-snr / 20)


def quantised(measurement: Tensor, _: torch.Generator, bits: float) -> Tensor:
    """y in 2^bits levels, equally spaced from the smallest to the largest value of each channel."""
    low = measurement.amin((2, 3), keepdim=True)
    step = (measurement.amax((2, 3), keepdim=True) - low) / (2**bits - 1)
    return torch.where(step > 0, ((measurement - low) / step).round() * step + low, measurement)


def mismatched(operator: BlockSampling, percent: float) -> BlockSampling:
    """The operator with a random change of Φ of ``percent`` of its Frobenius norm."""
    matrix = operator.matrix.detach()
    random = torch.Generator().manual_seed(0)
    change = torch.randn(matrix.shape, generator=random).to(matrix)
    change *= percent / 100 * matrix.norm() / change.norm()
    return BlockSampling(matrix + change, operator.block_size, learned=False)


def parts(shape: Sequence[int], block: int) -> Iterator[tuple[str, float, tuple[slice, slice]]]:
    """The parts of an image for the tests shift and size, as far as they fit.

    A part for the test size begins at a border of blocks, so it is not shifted against them.
    """
    height, width = shape
    for shift in TESTS[3].values:
        if min(height, width) > 2 * shift:
            yield "shift", shift, (slice(int(shift), None), slice(int(shift), None))
    for value in TESTS[4].values:
        side = int(value)
        if side <= min(height, width):
            top, left = ((length - side) // 2 // block * block for length in (height, width))
            yield "size", value, (slice(top, top + side), slice(left, left + side))


def _psnr(rebuilt: list[np.ndarray], planes: list[np.ndarray], rules: Rules) -> float:
    """The PSNR; at most 100 dB, so that a mean exists."""
    pixels = color.join(rebuilt)
    target = protocol_scale(color.join(planes))[: pixels.shape[0], : pixels.shape[1]]
    value = metrics.score_psnr(pixels, target, rules.protocol)
    return value if math.isnan(value) else min(value, 100.0)
