"""PSNR and SSIM, with range, border, luma and rounding written down.

The rules decide a decibel, so they have names. All arithmetic is double precision on the scale
0..255. SSIM is scikit-image's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lgmnet.registry import nearest

PEAK = 255.0


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Rules for scoring a reconstruction."""

    clip: bool = True
    """Clip the reconstruction to 0..255 before scoring."""
    quantise: str = "none"
    """``round`` or ``truncate`` to whole levels before scoring."""
    border: int = 0
    """Pixels removed on each side before scoring."""
    limited_range: bool = False
    """Score on 16..235 (MATLAB, BasicSR) instead of 0..255: 1.32 dB more for the same image."""
    pooled: bool = False
    """PSNR of the squared error of all pixels of the set, instead of the mean of the images' PSNR:
    what torchmetrics' PeakSignalNoiseRatio accumulates. A large image counts for more."""
    gaussian_ssim: bool = False
    """11 x 11 Gaussian window of σ = 1.5 (Wang et al. 2004) instead of 7 x 7 uniform."""
    always_pad: bool = False
    """Pad by a whole block even where a side is in whole blocks."""


PROTOCOLS = {
    # LGM-Net, PRL, CPP-Net: the rules of the published tables.
    "paper": Protocol(),
    "rounded": Protocol(quantise="round"),
    "truncated": Protocol(quantise="truncate"),
    "border4": Protocol(border=4),
    "pooled": Protocol(pooled=True),
    "limited": Protocol(limited_range=True),
    "gaussian": Protocol(gaussian_ssim=True),
    # As the authors' own scripts score: ISTA-Net, AMP-Net (TIP 2021), AMPA-Net.
    "ista33": Protocol(always_pad=True),
    "amp21": Protocol(quantise="truncate", gaussian_ssim=True, always_pad=True),
    "ampa": Protocol(clip=False, always_pad=True),
}


class Score(NamedTuple):
    """Quality of one image, or of a set; see `score` and `summarise`."""

    psnr: float
    """In dB; infinite for identical images."""
    ssim: float
    """NaN for an image smaller than the window."""
    mse: float
    """Mean squared error, 0..255."""
    pixels: int = 1
    """How many values ``mse`` is the mean of; none are left of an image inside a border."""

    @property
    def has_psnr(self) -> bool:
        """Whether there is a PSNR for the mean of a set."""
        return self.pixels > 0 and self.psnr != math.inf

    @property
    def has_ssim(self) -> bool:
        """Likewise. The NaN of a reconstruction that is not finite is no missing value."""
        return not math.isnan(self.ssim) or (self.pixels > 0 and not math.isfinite(self.mse))


def find_protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise ValueError(
            f"unknown protocol '{name}'{nearest(name, PROTOCOLS)} (known: {', '.join(PROTOCOLS)})"
        )
    return PROTOCOLS[name]


def psnr(mse: float) -> float:
    """10 log₁₀(255² / mse) in dB; infinite for identical images."""
    return math.inf if mse == 0 else 10 * math.log10(PEAK**2 / mse)


def ssim(image: np.ndarray, target: np.ndarray, gaussian: bool = False) -> float:
    """Structural similarity of 0..255 images ``(H, W)`` or ``(H, W, 3)``.

    A uniform 7 x 7 window and sample covariance (scikit-image's defaults), or the Gaussian
    window of Wang et al. (2004). NaN for an image smaller than the window.
    """
    from skimage.metrics import structural_similarity

    window = 11 if gaussian else 7
    if min(image.shape[:2]) < window:
        return math.nan
    axis = 2 if image.ndim == 3 else None
    options = (
        {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False} if gaussian else {}
    )
    return float(
        structural_similarity(image, target, data_range=PEAK, channel_axis=axis, **options)
    )


def score(image: np.ndarray, target: np.ndarray, protocol: Protocol = PROTOCOLS["paper"]) -> Score:
    """Score a reconstruction.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)``, on the scale 0..255, not rounded.
        target: the same shape, 0..255.
    """
    if image.shape != target.shape:
        raise ValueError(f"the reconstruction has shape {image.shape}, the image {target.shape}")
    image, target = image.astype(np.float64), target.astype(np.float64)
    if protocol.clip:
        image = np.clip(image, 0, PEAK)
    if protocol.quantise != "none":
        image = np.rint(image) if protocol.quantise == "round" else np.trunc(image)
    if protocol.limited_range:
        image, target = 16 + image * 219 / 255, 16 + target * 219 / 255
    if protocol.border:
        inside = slice(protocol.border, -protocol.border)
        image, target = image[inside, inside], target[inside, inside]
    mse = float(np.mean((image - target) ** 2)) if image.size else math.nan
    return Score(psnr(mse), ssim(image, target, protocol.gaussian_ssim), mse, image.size)


def summarise(scores: Sequence[Score], protocol: Protocol = PROTOCOLS["paper"]) -> Score:
    """Score of a set: the mean of the images' scores, or the PSNR of the pooled error.

    A mean is over the images that have a value: an identical image has no finite PSNR, one smaller
    than the window no SSIM. A reconstruction that is not finite is no missing value: it makes the
    score of the set NaN.
    """
    scores = [s for s in scores if s.pixels]
    weights = [s.pixels if protocol.pooled else 1 for s in scores]
    mse = float(np.average([s.mse for s in scores], weights=weights)) if scores else math.nan
    return Score(
        psnr(mse) if protocol.pooled else mean_psnr([s.psnr for s in scores]),
        _mean([s.ssim for s in scores if s.has_ssim]),
        mse,
        sum(s.pixels for s in scores),
    )


def mean_psnr(values: Sequence[float]) -> float:
    """The mean of those that are not infinite; infinite where all are, NaN of none."""
    finite = [value for value in values if value != math.inf]
    return _mean(finite) if finite or not values else math.inf


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
