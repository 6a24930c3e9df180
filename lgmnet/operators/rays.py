"""Lengths of parallel rays in the pixels of an image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it takes time to import
    from scipy.sparse import csr_array

# The slopes of the profile of a pixel are at least so wide, in pixels. So a ray along the edge of
# two pixels has half of its length in each of them.
NARROWEST = 1e-6


def positions(side: int, angle: float) -> np.ndarray:
    """t = column · cos θ − row · sin θ of every pixel, from the middle, ``(side²,)``.

    Args:
        side: in pixels.
        angle: θ, in degrees.
    """
    theta = np.deg2rad(angle)
    line = np.arange(side) - (side - 1) / 2
    return (line * np.cos(theta) - line[:, None] * np.sin(theta)).ravel()


def profile(distance: np.ndarray, angle: float) -> np.ndarray:
    """Length of a ray in a pixel whose middle has this distance from it, both in pixels.

    A pixel is a square, so this is a trapezoid: its height is 1 / max(|cos θ|, |sin θ|), and half
    its width is (|cos θ| + |sin θ|) / 2. It is exact, like a search for the points where the ray
    enters and leaves (R. Siddon, Medical Physics 12(2), 1985).
    """
    theta = np.deg2rad(angle)
    short, long = sorted((abs(np.cos(theta)), abs(np.sin(theta))))
    slope = max(short, NARROWEST)
    return np.clip(((long + slope) / 2 - distance) / slope, 0, 1) / long


def view_lengths(side: int, angle: float, detectors: int) -> "csr_array":
    """Length of every ray of one view in every pixel, ``(detectors, side²)``."""
    from scipy.sparse import csr_array

    middle = positions(side, angle) + (detectors - 1) / 2  # in the numbers of the detectors
    # A pixel reaches at most √½ to both sides of its middle.
    first = np.floor(middle).astype(np.int32)
    rays = np.stack([first - 1, first, first + 1])
    lengths = profile(np.abs(rays - middle), angle)
    hit = (lengths > 0) & (rays >= 0) & (rays < detectors)
    pixels = np.broadcast_to(np.arange(side**2, dtype=np.int32), rays.shape)
    return csr_array((lengths[hit], (rays[hit], pixels[hit])), shape=(detectors, side**2))


def ray_lengths(side: int, angles: Sequence[float], detectors: int) -> "csr_array":
    """Length of every ray in every pixel, in pixels, ``(views · detectors, side²)``.

    The rays of a view are one pixel apart, and their middle is the middle of the image. Ray t at
    angle θ is the line column · cos θ − row · sin θ = t. The geometry is that of ``radon`` of
    scikit-image, whose middle of an even side is half a pixel further down and to the right.
    """
    from scipy.sparse import vstack

    return vstack([view_lengths(side, angle, detectors) for angle in angles], format="csr")
