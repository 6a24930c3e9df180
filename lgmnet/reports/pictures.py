"""Pictures inside a page: pixels to data URIs."""

import base64

import cv2
import numpy as np

from lgmnet.data.color import colour_picture

# The error that has the last colour of the scale, on 0..255.
LARGEST_ERROR = 25.5
# Lowest power in the picture of a spectrum, in dB.
LOWEST_POWER = -40.0
COLORS = cv2.COLORMAP_INFERNO
LOSSLESS = 101
# A curve: lines of a signal, samples of a line, and height of a line in pixels.
LINES, LINE, LINE_HEIGHT = 2, 1024, 256


def shown(pixels: np.ndarray) -> np.ndarray:
    """A picture of an image: grey, or BGR for three channels, 0..255, clipped.

    Other numbers of channels: see `colour_picture`.
    """
    return np.rint(np.clip(colour_picture(pixels), 0, 255)).astype(np.uint8)


def curve(pixels: np.ndarray) -> np.ndarray:
    """A signal ``(H, W)``, 0..255, as a curve: its first samples in lines. 0 is at the bottom."""
    values = np.clip(pixels, 0, 255).ravel()[: LINES * LINE]
    picture = np.full((LINES * LINE_HEIGHT, LINE), 255, np.uint8)
    for k in range(0, len(values), LINE):
        part = values[k : k + LINE]
        bottom = (k // LINE + 1) * LINE_HEIGHT - 4
        heights = bottom - part / 255 * (LINE_HEIGHT - 8)
        points = np.rint(np.column_stack([np.arange(len(part)), heights])).astype(np.int32)
        cv2.polylines(picture, [points], False, 0, 1, cv2.LINE_AA)
    return picture


def error_map(pixels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """|x̂ − x| in colours, ``(H, W, 3)``, BGR: the largest of three channels, the mean of more."""
    error = np.abs(np.clip(pixels, 0, 255) - np.clip(truth, 0, 255))
    if error.ndim == 3:
        error = error.max(axis=2) if error.shape[2] <= 3 else error.mean(axis=2)
    return colors(error / LARGEST_ERROR)


def error_curve(pixels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """|x̂ − x| of a signal as a curve; the largest error of the scale is at the top."""
    error = np.abs(np.clip(pixels, 0, 255) - np.clip(truth, 0, 255))
    return curve(error / LARGEST_ERROR * 255)


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
