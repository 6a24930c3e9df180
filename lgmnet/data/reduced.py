"""Training images made from larger photographs: luma, halved, JPEG of quality 92.

A list gives height, width and mean luma of the result, such as ``187x250 108.2``. The sources have
no known checksum, and decoders differ by a level. So a result is recognised by these values.
"""

from pathlib import Path

import cv2
import numpy as np

from lgmnet.data.color import luma
from lgmnet.data.images import ImageError, read_pixels

QUALITY = 92
MEAN_TOLERANCE = 2.0  # levels of 0..255


def reduced_problem(path: Path, listed: str) -> str:
    """Why ``path`` is neither the listed image nor its source; empty if it is one of them."""
    try:
        found = _reduced(read_pixels(path), _size(listed))
    except ImageError as error:
        return str(error)
    size, mean = "{}x{}".format(*found.shape), float(found.mean())
    expected = float(listed.split()[1])
    if found.shape == _size(listed) and abs(mean - expected) <= MEAN_TOLERANCE:
        return ""
    return f"reduced, it has {size} pixels of mean luma {mean:.1f}, expected {listed}"


def reduced_jpeg(path: Path, listed: str) -> bytes | None:
    """The JPEG file of the listed image, made from its source; None if ``path`` is the result."""
    pixels = read_pixels(path)
    if pixels.shape == _size(listed):  # luma of the listed size
        return None
    settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    return cv2.imencode(".jpg", _reduced(pixels, _size(listed)), settings)[1].tobytes()


def _size(listed: str) -> tuple[int, int]:
    height, width = listed.split()[0].split("x")
    return int(height), int(width)


def _reduced(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Luma, halved by area averaging until it is not larger than ``size``, (H, W)."""
    image = luma(pixels)
    while image.shape[0] > size[0] and image.shape[1] > size[1]:
        height, width = image.shape
        image = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return image
