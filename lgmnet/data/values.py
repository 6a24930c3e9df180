"""The range of pixel values, in one place: 1.0 is white.

Images keep the type of their file: uint8, uint16 or float32. Networks, losses and reconstructions
use the unit scale, with 1 as white. Protocols score on 0..255.
"""

import numpy as np
import torch
from torch import Tensor

PEAK = 255
"""White on the scale of the protocols."""

TOLERANCE = 1e-3
"""Float images may exceed white by this value, because of interpolation and rounding."""


def white(dtype: np.dtype | torch.dtype) -> int:
    """The number for white: 255, 65535, or 1 for floats."""
    known = {"uint8": 255, "uint16": 65535}
    return known.get(str(dtype).removeprefix("torch."), 1)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8, uint16 or float pixels -> float32 on the unit scale, on the same device."""
    peak = white(pixels.dtype)
    return pixels.float() / peak if peak > 1 else pixels.float()


def unit_array(pixels: np.ndarray) -> np.ndarray:
    """`to_unit` for NumPy."""
    peak = white(pixels.dtype)
    return pixels.astype(np.float32) / peak if peak > 1 else pixels.astype(np.float32)


def common_type(types: list[np.dtype]) -> np.dtype:
    """The type of crops from images of these types: uint8 if all are uint8, else float32."""
    return np.dtype(np.uint8 if all(kind == np.uint8 for kind in types) else np.float32)


def as_type(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The pixels unchanged if they have this type, else on the unit scale in float32."""
    return pixels if pixels.dtype == dtype else unit_array(pixels)


def protocol_scale(pixels: np.ndarray) -> np.ndarray:
    """Pixels of a file on 0..255: uint8 unchanged, others as float64."""
    if pixels.dtype == np.uint8:
        return pixels
    return pixels.astype(np.float64) * (PEAK / white(pixels.dtype))


def from_unit(image: Tensor) -> np.ndarray:
    """An image on the unit scale -> float64 on 0..255, not clipped, on the CPU."""
    return image.double().cpu().numpy() * PEAK


def from_protocol_scale(pixels: np.ndarray) -> np.ndarray:
    """0..255 -> the unit scale, as float64."""
    return pixels / PEAK


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float image on the unit scale -> uint8, clipped and rounded, for saving (not for scoring)."""
    return np.rint(np.clip(image, 0, 1) * PEAK).astype(np.uint8)


def check_range(pixels: np.ndarray, subject: str) -> np.ndarray:
    """Return the pixels after a check of their range. 1.0 is white.

    Raises:
        ValueError: a value is NaN, infinite or larger than white; of a complex number the
            magnitude is checked. ``subject`` begins the message.
    """
    if pixels.dtype.kind not in "fc":
        return pixels
    largest = float(np.abs(pixels).max())
    if not np.isfinite(largest):
        raise ValueError(f"{subject} contains NaN or infinite values; replace them first")
    if largest > 1 + TOLERANCE:
        raise ValueError(
            f"{subject} has values up to {largest:g}, expected -1 to 1, where 1 is white; divide "
            "them by the number for white, or store this number as 'scale' with the image in a "
            ".npz or .mat file"
        )
    return pixels
