"""Pictures inside a page: pixels to data URIs."""

import base64

import cv2
import numpy as np

from lgmnet.data.color import grey_picture

# The error that has the last colour of the scale, on 0..255.
LARGEST_ERROR = 25.5
# Lowest power in the picture of a spectrum, in dB.
LOWEST_POWER = -40.0
COLORS = cv2.COLORMAP_INFERNO
LOSSLESS = 101


def shown(pixels: np.ndarray) -> np.ndarray:
    """A picture of an image: grey, or BGR for three channels, 0..255, clipped.

    Images with other numbers of channels are shown as their magnitude or mean.
    """
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        pixels = grey_picture(pixels)
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def error_map(pixels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """|x̂ − x| in colours; the largest of the channels. ``(H, W, 3)``, BGR."""
    error = np.abs(np.clip(pixels, 0, 255) - np.clip(truth, 0, 255))
    error = error.max(axis=2) if error.ndim == 3 else error
    return colors(error / LARGEST_ERROR)


def colors(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] in colours, ``(H, W, 3)``, BGR; values outside are clipped."""
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.applyColorMap(levels, COLORS)


def color_bar() -> str:
    """The scale of colours from 0 to 1, left to right."""
    return data_uri(colors(np.linspace(0, 1, 256)[None].repeat(8, 0)))


def data_uri(pixels: np.ndarray, quality: int = LOSSLESS) -> str:
    """uint8 pixels as a WebP image in a ``data:`` address; ``quality`` 101 is lossless."""
    done, content = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise ValueError(
            f"a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels cannot be stored as WebP, "
            "which has at most 16383 x 16383; report on smaller images"
        )
    return "data:image/webp;base64," + base64.b64encode(content.tobytes()).decode()
