"""Luma and colour, in one place.

Pixels are uint8 in OpenCV's order, BGR. Luma is the full-range Y of BT.601,
Y = 0.299 R + 0.587 G + 0.114 B, rounded to uint8, as every compared network uses it.
"""

import cv2
import numpy as np


def luma(pixels: np.ndarray) -> np.ndarray:
    """Y ``(H, W)`` uint8 of grey ``(H, W)`` or BGR ``(H, W, 3)`` pixels.

    A grey image stored with three equal channels gives its grey values back unchanged.
    """
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2YCrCb)[:, :, 0]


def channels(pixels: np.ndarray, policy: str) -> list[np.ndarray]:
    """The ``(H, W)`` planes that are measured: Y for ``luma``, R, G and B for ``rgb``.

    A grey image has one plane under both policies.
    """
    if policy == "luma" or pixels.ndim == 2:
        return [luma(pixels)]
    return [np.ascontiguousarray(pixels[:, :, k]) for k in (2, 1, 0)]


def join(planes: list[np.ndarray]) -> np.ndarray:
    """Inverse of `channels`: grey from one plane, BGR from three."""
    return planes[0] if len(planes) == 1 else np.stack(planes[::-1], axis=2)
