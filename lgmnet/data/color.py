"""Luma and colour, in one place.

Pixels are ``(H, W)`` or ``(H, W, C)``; three channels are in OpenCV's order, BGR. Channels that are
measured together are in the order RGB. Luma is the full-range Y of BT.601, Y = 0.299 R + 0.587 G +
0.114 B, in the type of the pixels. Integers are rounded, as in every compared network.

A policy defines what is measured: ``luma``, only Y; ``rgb``, three planes separately; ``color``,
the three channels together; ``bands``, all channels together, unchanged. Two channels are the real
and the imaginary part of a complex image.
"""

import cv2
import numpy as np


def luma(pixels: np.ndarray) -> np.ndarray:
    """Y ``(H, W)`` of grey ``(H, W)`` or BGR ``(H, W, 3)`` pixels.

    For three equal channels, Y is exactly the grey values.

    Raises:
        ValueError: the pixels have another number of channels.
    """
    _require_colour(pixels, "luma")
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2YCrCb)[:, :, 0]


def channels(pixels: np.ndarray, policy: str) -> list[np.ndarray]:
    """The arrays to measure, one after the other: ``(H, W)``, or ``(H, W, C)`` in RGB order.

    A grey image has one plane under ``luma`` and ``rgb``, and three equal channels under ``color``.

    Raises:
        ValueError: the image has neither one channel nor three, and the policy is not ``bands``.
    """
    if policy == "bands":
        return [_reversed(pixels)]
    _require_colour(pixels, policy)
    if policy == "color":
        return [_reversed(pixels if pixels.ndim == 3 else np.dstack([pixels] * 3))]
    if policy == "luma" or pixels.ndim == 2:
        return [luma(pixels)]
    return [np.ascontiguousarray(pixels[:, :, k]) for k in (2, 1, 0)]


def join(planes: list[np.ndarray]) -> np.ndarray:
    """Inverse of `channels`: grey, BGR, or all channels."""
    return _reversed(planes[0]) if len(planes) == 1 else np.stack(planes[::-1], axis=2)


def channel_count(channels: int, policy: str) -> int:
    """Number of channels that are measured together, for an image with ``channels`` channels."""
    return {"bands": channels, "color": 3}.get(policy, 1)


def policy_for(channels: int) -> str:
    """The policy for an operator with this number of channels."""
    return {1: "luma", 3: "color"}.get(channels, "bands")


def grey_picture(pixels: np.ndarray) -> np.ndarray:
    """A grey picture ``(H, W)``: the magnitude of a complex image, else the mean channel."""
    if pixels.ndim == 2:
        return pixels
    return np.hypot(*np.moveaxis(pixels, 2, 0)) if pixels.shape[2] == 2 else pixels.mean(axis=2)


def colour_picture(pixels: np.ndarray) -> np.ndarray:
    """A picture of any pixels: grey ``(H, W)``, or BGR ``(H, W, 3)``.

    A complex image is shown as its magnitude. Of more than three bands the means of the first, the
    middle and the last third are blue, green and red.
    """
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    if pixels.shape[2] < 3:
        return grey_picture(pixels)
    thirds = np.array_split(pixels, 3, axis=2)
    return np.dstack([part.mean(axis=2) for part in thirds])


def _reversed(pixels: np.ndarray) -> np.ndarray:
    """BGR to RGB and RGB to BGR; other pixels unchanged."""
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels[:, :, ::-1])
    return pixels


def _require_colour(pixels: np.ndarray, policy: str) -> None:
    count = 1 if pixels.ndim == 2 else pixels.shape[2]
    if count not in (1, 3):
        raise ValueError(
            f"the image has {count} channels, but color={policy} needs one (grey) or three (RGB); "
            "set color=bands in data: and evaluation: (--color bands)"
        )
