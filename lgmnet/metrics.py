"""PSNR, SSIM, NMSE and RMSE, with defined range, border, luma and rounding.

Scoring rules change the PSNR by more than a decibel, so every set of rules has a name. All
arithmetic is in double precision on the scale 0..255. SSIM is computed by scikit-image, except in
protocols with padded SSIM.
"""

import dataclasses
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
    """Clip to 0..255 before scoring. The original image is in this range, up to rounding."""
    quantise: str = "none"
    """``round`` or ``truncate`` to the whole levels of 8-bit images before scoring."""
    border: int = 0
    """Pixels removed on each side before scoring."""
    limited_range: bool = False
    """Score on 16..235 (MATLAB, BasicSR) instead of 0..255: 1.32 dB more for the same image."""
    pooled: bool = False
    """PSNR of the squared error of all pixels of the set, instead of the mean PSNR over the images.
    This equals torchmetrics' PeakSignalNoiseRatio. Large images have more weight."""
    gaussian_ssim: bool = False
    """11 x 11 Gaussian window of σ = 1.5 (Wang et al. 2004) instead of 7 x 7 uniform."""
    always_pad: bool = False
    """Pad a side by a whole block even if it needs no padding."""
    magnitude: bool = False
    """Score the magnitude √(re² + im²) of a complex image, which has two channels. An image with
    one channel is scored unchanged."""
    nmse: bool = False
    """Also compute ‖x̂ − x‖ / ‖x‖ and its mean, before clipping and before magnitudes."""
    rmse: bool = False
    """Also √mse, where white is 1. That of a set follows from its mse, as ``pooled`` does."""
    bands: bool = False
    """Mean of the PSNR values of the channels, instead of one PSNR of all channels."""
    white: float = PEAK
    """Number for white (1.0) before rounding. The peak of the PSNR stays 255."""
    padded_ssim: bool = False
    """Mean SSIM over all pixels, with the Gaussian window and zeros outside the image; computed
    before rounding."""


PROTOCOLS = {
    # LGM-Net, PRL, CPP-Net: the rules of the published tables.
    "paper": Protocol(),
    "rounded": Protocol(quantise="round"),
    "truncated": Protocol(quantise="truncate"),
    "border4": Protocol(border=4),
    "pooled": Protocol(pooled=True),
    "limited": Protocol(limited_range=True),
    "gaussian": Protocol(gaussian_ssim=True),
    # The rules in the authors' own scripts: ISTA-Net, AMP-Net (TIP 2021), AMPA-Net.
    "ista33": Protocol(always_pad=True),
    "amp21": Protocol(quantise="truncate", gaussian_ssim=True, always_pad=True),
    "ampa": Protocol(clip=False, always_pad=True),
    # MR images. ISTA-Net clips and scores real images. Deep ADMM-Net scores the magnitude of
    # complex images, and NMSE. It also takes the magnitude of a real reconstruction; this lowers
    # the PSNR by 0.01 dB or less.
    "mri": Protocol(magnitude=True, nmse=True),
    # USRNet, by scale s: RGB of 8 bits, without a border of s² pixels.
    "usr2": Protocol(quantise="round", border=4),
    "usr3": Protocol(quantise="round", border=9),
    "usr4": Protocol(quantise="round", border=16),
    # MST, DAUHST: spectral images, multiplied by 256 and rounded; the peak is still 255.
    "cassi": Protocol(clip=False, quantise="round", bands=True, white=256.0, padded_ssim=True),
    # Tomography as FISTA-Net scores it: not clipped, one PSNR of all pixels of the set, and RMSE.
    "ct": Protocol(clip=False, pooled=True, padded_ssim=True, rmse=True),
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
    """Number of values in the mean ``mse``; 0 if the removed border covers the image."""
    nmse: float = math.nan
    """‖x̂ − x‖ / ‖x‖ if the protocol includes it, else NaN; infinite for a black image."""

    @property
    def rmse(self) -> float:
        """Root of the mean squared error, where white is 1."""
        return math.sqrt(self.mse) / PEAK

    @property
    def has_psnr(self) -> bool:
        """Whether there is a PSNR for the mean of a set."""
        return self.pixels > 0 and self.psnr != math.inf

    @property
    def has_ssim(self) -> bool:
        """Whether there is an SSIM for the mean of a set.

        A NaN from a reconstruction with NaN counts as a value.
        """
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


def score(
    image: np.ndarray,
    target: np.ndarray,
    protocol: Protocol = PROTOCOLS["paper"],
    with_ssim: bool = True,
) -> Score:
    """Score a reconstruction.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``, on the scale 0..255, not rounded.
        target: the same shape, 0..255; the parts of a complex image may be negative.
        with_ssim: also compute the SSIM; else it is NaN.

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
    if not with_ssim:
        similarity = math.nan
    elif similarity is None:
        similarity = ssim(image, target, protocol.gaussian_ssim)
    value = band_psnr(image, target) if protocol.bands else psnr(mse)
    return Score(value, similarity, mse, image.size, error)


def score_psnr(image: np.ndarray, target: np.ndarray, protocol: Protocol) -> float:
    """The PSNR of `score` alone, in dB. SSIM, which takes most of the time, is not computed."""
    return score(image, target, dataclasses.replace(protocol, padded_ssim=False), False).psnr


def seams(image: np.ndarray, target: np.ndarray, block: int, clip: bool = True) -> float:
    """RMSE of the pixels beside the borders of blocks over the RMSE of all other pixels.

    It is 1 if blocks leave no seams. The two pixels on both sides of a border between two blocks
    count; the borders of the image do not.

    Args:
        image: the reconstruction, ``(H, W)`` or ``(H, W, C)``, 0..255.
        target: the same shape.
        block: side of a block, in pixels; the first block begins at the first pixel.

    Returns:
        NaN if the image has one block only, or a block has less than three pixels, or there is no
        error.
    """
    if clip:
        image, target = np.clip(image, 0, PEAK), np.clip(target, 0, PEAK)
    beside = np.zeros(image.shape[:2], bool)
    for axis in (0, 1):
        borders = np.arange(block, beside.shape[axis], block)
        rows = np.moveaxis(beside, axis, 0)  # a view
        rows[borders] = rows[borders - 1] = True
    error = (image.astype(np.float64) - target) ** 2
    if not beside.any() or beside.all() or not error[~beside].any():
        return math.nan
    return math.sqrt(float(error[beside].mean() / error[~beside].mean()))


def magnitude(image: np.ndarray) -> np.ndarray:
    """√(re² + im²) of two channels ``(H, W, 2)``; other images unchanged."""
    return np.hypot(image[..., 0], image[..., 1]) if image.shape[2:] == (2,) else image


def nmse(image: np.ndarray, target: np.ndarray) -> float:
    """‖x̂ − x‖ / ‖x‖; for a black image 0 (no error) or infinite."""
    error, norm = (float(np.linalg.norm(array)) for array in (image - target, target))
    if norm == 0:
        return 0.0 if error == 0 else math.inf
    return error / norm


def band_psnr(image: np.ndarray, target: np.ndarray) -> float:
    """Mean PSNR over the channels, without identical channels."""
    errors = np.mean((image - target) ** 2, axis=(0, 1))
    return mean_psnr([psnr(float(error)) for error in np.atleast_1d(errors)])


def padded_ssim(image: np.ndarray, target: np.ndarray) -> float:
    """Mean SSIM over all pixels and channels of 0..255 images, with zeros outside the image.

    The window is Gaussian, 11 x 11 with σ = 1.5, as in pytorch_ssim, the usual SSIM of spectral
    imaging.
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
            "protocol clips; choose mri for complex images, or a protocol without clipping for "
            "other images"
        )


def summarise(scores: Sequence[Score], protocol: Protocol = PROTOCOLS["paper"]) -> Score:
    """Score of a set: the mean of the images' scores, or the PSNR of the pooled error.

    A mean includes the images that have a value. An identical image has no finite PSNR. An image
    smaller than the window has no SSIM. A reconstruction with NaN or infinity is not left out: it
    makes the score of the set NaN.
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
    """Mean of the finite values. Infinity if all values are infinite, NaN if there are none."""
    finite = [value for value in values if value != math.inf]
    return _mean(finite) if finite or not values else math.inf


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
