"""PSNR, SSIM and NMSE, with range, border, luma and rounding written down.

The rules decide a decibel, so they have names. All arithmetic is double precision on the scale
0..255. SSIM is scikit-image's, except where a protocol pads it.
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
    """Clip to 0..255 before scoring. An image is in it already, up to rounding."""
    quantise: str = "none"
    """``round`` or ``truncate`` to whole levels before scoring, as images of 8 bits are."""
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
    magnitude: bool = False
    """Score the magnitude √(re² + im²) of two channels, which are the parts of a complex image.
    One channel is scored as it is."""
    nmse: bool = False
    """Also ‖x̂ − x‖ / ‖x‖, before magnitudes are taken or anything is clipped, and its mean."""
    bands: bool = False
    """PSNR of each channel, then the mean, instead of the PSNR of all of them."""
    white: float = PEAK
    """What stands for 1.0 before rounding. The peak of the PSNR stays 255."""
    padded_ssim: bool = False
    """SSIM of all pixels, beyond whose border are zeros, with the Gaussian window; before
    rounding."""


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
    # MR images: ISTA-Net scores real ones, clipped, Deep ADMM-Net complex ones by magnitudes, and
    # NMSE. It takes the magnitude of a real reconstruction too, which costs 0.01 dB or less there.
    "mri": Protocol(magnitude=True, nmse=True),
    # USRNet, by scale s: RGB of 8 bits, without a border of s² pixels.
    "usr2": Protocol(quantise="round", border=4),
    "usr3": Protocol(quantise="round", border=9),
    "usr4": Protocol(quantise="round", border=16),
    # MST, DAUHST: spectral images, times 256 and rounded, though the peak is 255.
    "cassi": Protocol(clip=False, quantise="round", bands=True, white=256.0, padded_ssim=True),
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
    nmse: float = math.nan
    """‖x̂ − x‖ / ‖x‖ where the protocol asks for it; infinite for a black image."""

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
    """Structural similarity of 0..255 images ``(H, W)`` or ``(H, W, C)``.

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
        image: ``(H, W)`` or ``(H, W, C)``, on the scale 0..255, not rounded.
        target: the same shape, 0..255; the parts of a complex image may be negative.

    Raises:
        ValueError: the shapes differ, or the protocol would clip the target.
    """
    if image.shape != target.shape:
        raise ValueError(f"the reconstruction has shape {image.shape}, the image {target.shape}")
    image, target = image.astype(np.float64), target.astype(np.float64)
    error = nmse(image, target) if protocol.nmse else math.nan
    if protocol.magnitude:
        image, target = magnitude(image), magnitude(target)
    if protocol.clip:
        _refuse_negative(target)
        image, target = np.clip(image, 0, PEAK), np.clip(target, 0, PEAK)
    similarity = padded_ssim(image, target) if protocol.padded_ssim else None
    if protocol.white != PEAK:
        image, target = image * (protocol.white / PEAK), target * (protocol.white / PEAK)
    if protocol.quantise != "none":
        image, target = _whole(image, protocol), _whole(target, protocol)
    if protocol.limited_range:
        image, target = 16 + image * 219 / 255, 16 + target * 219 / 255
    if protocol.border:
        inside = slice(protocol.border, -protocol.border)
        image, target = image[inside, inside], target[inside, inside]
    mse = float(np.mean((image - target) ** 2)) if image.size else math.nan
    if similarity is None:
        similarity = ssim(image, target, protocol.gaussian_ssim)
    value = band_psnr(image, target) if protocol.bands else psnr(mse)
    return Score(value, similarity, mse, image.size, error)


def magnitude(image: np.ndarray) -> np.ndarray:
    """√(re² + im²) of two channels ``(H, W, 2)``; other images as they are."""
    return np.hypot(image[..., 0], image[..., 1]) if image.shape[2:] == (2,) else image


def nmse(image: np.ndarray, target: np.ndarray) -> float:
    """‖x̂ − x‖ / ‖x‖; of a black image 0 or infinite."""
    error, norm = (float(np.linalg.norm(array)) for array in (image - target, target))
    if norm == 0:
        return 0.0 if error == 0 else math.inf
    return error / norm


def band_psnr(image: np.ndarray, target: np.ndarray) -> float:
    """The mean of the channels' PSNR, without those that are identical."""
    errors = np.mean((image - target) ** 2, axis=(0, 1))
    return mean_psnr([psnr(float(error)) for error in np.atleast_1d(errors)])


def padded_ssim(image: np.ndarray, target: np.ndarray) -> float:
    """Mean of the SSIM at every pixel and channel of 0..255 images, with zeros beyond the border.

    An 11 x 11 Gaussian window of σ = 1.5, as pytorch_ssim, which spectral imaging uses, has it.
    """
    from scipy.ndimage import correlate1d

    window = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            values = correlate1d(values, window, axis=axis, mode="constant")
        return values

    small, large = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    one, two = mean(image), mean(target)
    variances = mean(image**2) - one**2 + mean(target**2) - two**2
    covariance = mean(image * target) - one * two
    similar = (2 * one * two + small) * (2 * covariance + large)
    return float(np.mean(similar / ((one**2 + two**2 + small) * (variances + large))))


def _whole(image: np.ndarray, protocol: Protocol) -> np.ndarray:
    return np.rint(image) if protocol.quantise == "round" else np.trunc(image)


def _refuse_negative(target: np.ndarray) -> None:
    if target.size and target.min() < 0:
        raise ValueError(
            f"the image has negative values, down to {target.min() / PEAK:.3g}, which this "
            "protocol clips; choose mri for complex images, for others one without clipping"
        )


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
        _mean([s.nmse for s in scores if s.nmse != math.inf]) if protocol.nmse else math.nan,
    )


def mean_psnr(values: Sequence[float]) -> float:
    """The mean of those that are not infinite; infinite where all are, NaN of none."""
    finite = [value for value in values if value != math.inf]
    return _mean(finite) if finite or not values else math.inf


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
