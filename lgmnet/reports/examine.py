"""What happens inside one reconstruction: the estimates after each stage, and Φ in numbers."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lgmnet import metrics
from lgmnet.data import color
from lgmnet.data.datasets import NamedImage
from lgmnet.data.transforms import channels_first, channels_last, crop_back
from lgmnet.data.values import from_unit, protocol_scale, to_unit
from lgmnet.evaluation.rebuild import Rules, check_channels, fit
from lgmnet.models import SensingModel
from lgmnet.models.watching import iterates
from lgmnet.operators import BlockSampling, LinearOperator
from lgmnet.runtime import device_of


class Estimate(NamedTuple):
    """An estimate of an image.

    name: of the step that has computed it.
    pixels: ``(H, W)`` or ``(H, W, C)``, 0..255, not clipped; None if it is not kept.
    psnr: in dB, by the rules.
    residual: ‖Φx − y‖ / ‖y‖, the mean over the planes.
    number: of the step, counted from 0.
    """

    name: str
    pixels: np.ndarray | None
    psnr: float
    residual: float
    number: int


class Examined(NamedTuple):
    """One image in a network.

    truth: ``(H, W)`` or ``(H, W, C)``, 0..255.
    measured: y of the first plane as a picture, ``(h, w)`` or BGR ``(h, w, 3)``, 0..255.
    shape: of y of the first plane.
    signal: whether the image is a signal: one block wide, and several blocks high.
    start: the smallest image that Φ measures as y, Φ⁺y. It does not depend on the network.
    estimates: of the network, first to last.
    score: of the last one.
    seams: see `metrics.seams`; NaN for an operator without blocks.
    """

    truth: np.ndarray
    measured: np.ndarray
    shape: tuple[int, ...]
    signal: bool
    start: Estimate
    estimates: list[Estimate]
    score: metrics.Score
    seams: float


@torch.inference_mode()
def examine(model: SensingModel, image: NamedImage, rules: Rules, kept: int) -> Examined:
    """Measure one image and keep what the network makes of it, step by step.

    Args:
        kept: largest number of estimates whose pixels are kept; the first and the last always are.

    Raises:
        ValueError: the operator does not support the channels or the size of the image.
    """
    planes = color.channels(image.pixels, rules.color)
    found = [_steps(model, p, rules, f"{image.name}:{k}") for k, p in enumerate(planes)]
    steps = [each for _, each in found]
    height, width = steps[0][0].pixels.shape[:2]
    truth = protocol_scale(color.join(planes))[:height, :width]
    count = min(map(len, steps))  # ISTA needs another number of steps in each plane
    joined = [_joined([s[k] if k < count - 1 else s[-1] for s in steps]) for k in range(count)]
    shown = set(spread(count - 1, kept))
    start, *estimates = (
        Estimate(step.name, step.pixels if k == 0 or k - 1 in shown else None,
                 metrics.score_psnr(step.pixels, truth, rules.protocol), step.residual, step.number)
        for k, step in enumerate(joined)
    )  # fmt: skip
    score = metrics.score(joined[-1].pixels, truth, rules.protocol)
    block = model.operator.sizes().get("block_size")
    ratio = math.nan if block is None else metrics.seams(joined[-1].pixels, truth, block)
    signal = planes[0].ndim == 2 and block == width < height
    y = found[0][0]
    measured = _measured(y, model.operator, signal)
    return Examined(truth, measured, tuple(y.shape[1:]), signal, start, estimates, score, ratio)


def _measured(y: Tensor, operator: LinearOperator, signal: bool) -> np.ndarray:
    """y as a picture, 0..255; that of a signal in the order of time, with the range of y."""
    if signal:
        y = rearrange(y, "1 m blocks 1 -> blocks m").cpu()
        return 255 * ((y - y.min()) / (y.max() - y.min()).clamp_min(1e-12)).numpy()
    picture = 255 * operator.picture_of(y).numpy()
    return picture[..., ::-1] if picture.ndim == 3 else picture


class _Step(NamedTuple):
    name: str
    pixels: np.ndarray
    residual: float
    number: int


def _steps(
    model: SensingModel, plane: np.ndarray, rules: Rules, name: str
) -> tuple[Tensor, list[_Step]]:
    """y; and Φ⁺y and the estimates of the network, for channels that are measured together."""
    image = to_unit(channels_first(plane).to(device_of(model)))[None]
    operator = model.operator
    check_channels(operator, image.shape[1], f"evaluation.color={rules.color}")
    fitted = fit(image, model, rules)
    height, width = (min(sides) for sides in zip(fitted.shape[2:], image.shape[2:], strict=True))
    y = model.measure(fitted, name)
    scale = y.norm() if y.any() else torch.ones(())

    def step(name: str, image: Tensor, number: int = 0) -> _Step:
        residual = float((operator(image) - y).norm() / scale)
        pixels = channels_last(from_unit(crop_back(image, height, width)[0]))
        return _Step(name, pixels, residual, number)

    smallest = operator.project(torch.zeros_like(fitted), y)
    found = [step(*each) for each in iterates(model, y)]
    return y, [step("Φ⁺y", smallest), *found]


def _joined(planes: list[_Step]) -> _Step:
    residual = float(np.mean([plane.residual for plane in planes]))
    pixels = color.join([plane.pixels for plane in planes])
    return _Step(planes[0].name, pixels, residual, planes[0].number)


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` (>= 2) of the numbers 0 … count − 1, evenly, with the first and last."""
    if count <= most:
        return list(range(count))
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})


class Measured(NamedTuple):
    """Φ in numbers and pictures.

    title: the operator as it prints itself.
    tiles: the first rows of Φ as tiles, or the mask, ``(H, W)`` in [0, 1]; None without a picture.
    singular: singular values of Φ, largest first; empty for an operator without a matrix.
    coherence: largest |⟨a, b⟩| of two different columns, normalised; NaN without a matrix.
    mean_coherence: mean |⟨a, b⟩| of two different columns.
    spectrum: mean |FFT| of the rows of Φ in dB below its maximum, ``(B, B)``, frequency zero in the
        centre; None without a matrix.
    """

    title: str
    tiles: np.ndarray | None
    singular: list[float]
    coherence: float
    mean_coherence: float
    spectrum: np.ndarray | None


@torch.no_grad()
def describe_operator(operator: LinearOperator) -> Measured:
    """Tiles, singular values, coherence and spectrum of Φ."""
    picture = operator.picture()
    tiles = None if picture is None else picture.cpu().numpy()
    title = " ".join(repr(operator).split())
    if not isinstance(operator, BlockSampling):
        return Measured(title, tiles, [], math.nan, math.nan, None)
    matrix = operator.matrix.detach().cpu().double()
    columns = matrix / matrix.norm(dim=0).clamp_min(1e-300)
    products = (columns.T @ columns).abs().fill_diagonal_(0)
    count = products.shape[0]
    rows = operator.kernel.detach().cpu().double()[:, 0]
    power = torch.fft.fftshift(torch.fft.fft2(rows).abs().square().mean(0))
    decibels = 10 * torch.log10((power / power.max()).clamp_min(1e-12))
    return Measured(
        title,
        tiles,
        torch.linalg.svdvals(matrix).tolist(),
        float(products.max()),
        float(products.sum() / max(1, count * (count - 1))),
        decibels.numpy(),
    )


@torch.no_grad()
def learned_values(model: SensingModel) -> dict[str, list[float]]:
    """Learned scalars of the stages by name: one value per stage."""
    return {k: v for k, v in model.network.learned_values().items() if len(v) > 1}


def as_json(value: float | None, digits: int = 4) -> Any:
    """A number for a page: rounded, and null for NaN and infinity."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
