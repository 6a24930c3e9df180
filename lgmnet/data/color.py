"""Luma and colour, in one place.

Pixels are ``(H, W)``, or ``(H, W, C)`` with three channels in OpenCV's order, BGR. What is measured
together is RGB. Luma is the full-range Y of BT.601, Y = 0.299 R + 0.587 G + 0.114 B, in the type of
the pixels: whole numbers are rounded, as every compared network does.

A policy says what is measured: ``luma``, the Y alone; ``rgb``, three planes one by one; ``color``,
the three together; ``bands``, all channels together as they are. Two channels are the real and the
imaginary part of a complex image.
"""

import cv2
import numpy as np


def luma(pixels: np.ndarray) -> np.ndarray:
    """Y ``(H, W)`` of grey ``(H, W)`` or BGR ``(H, W, 3)`` pixels.

    A grey image stored with three equal channels gives its grey values back unchanged.

    Raises:
        ValueError: another number of channels.
    """
    _require_colour(pixels, "luma")
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2YCrCb)[:, :, 0]


def channels(pixels: np.ndarray, policy: str) -> list[np.ndarray]:
    """What is measured, one array after the other: ``(H, W)``, or ``(H, W, C)`` in RGB order.

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
    """Inverse of `channels`: grey, BGR, or as many channels as there are."""
    return _reversed(planes[0]) if len(planes) == 1 else np.stack(planes[::-1], axis=2)


def channel_count(channels: int, policy: str) -> int:
    """How many channels are measured together of an image with so many."""
    return {"bands": channels, "color": 3}.get(policy, 1)


def policy_for(channels: int) -> str:
    """The policy that gives an operator its channels."""
    return {1: "luma", 3: "color"}.get(channels, "bands")


def grey_picture(pixels: np.ndarray) -> np.ndarray:
    """``(H, W)`` to look at: the magnitude of a complex image, the mean of other channels."""
    if pixels.ndim == 2:
        return pixels
    return np.hypot(*np.moveaxis(pixels, 2, 0)) if pixels.shape[2] == 2 else pixels.mean(axis=2)


def _reversed(pixels: np.ndarray) -> np.ndarray:
    """BGR as RGB and RGB as BGR; other pixels as they are."""
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels[:, :, ::-1])
    return pixels


def _require_colour(pixels: np.ndarray, policy: str) -> None:
    count = 1 if pixels.ndim == 2 else pixels.shape[2]
    if count not in (1, 3):
        raise ValueError(
            f"the image has {count} channels, and color={policy} takes one (grey) or three (RGB); "
            "set color=bands in data: and evaluation: (--color bands)"
        )
