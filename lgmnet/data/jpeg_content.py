"""Decode JPEG files, and detect missing data.

Decoders accept a file that ends too early without an error. Missing parts become grey, or coarse in
a progressive file.
"""

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

# In entropy-coded data FF is followed by 00, or by the number of a restart marker, D0 to D7.
MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
SCAN, END, PROGRESSIVE = 0xDA, 0xD9, 0xC2
FRAMES = (0xC0, 0xC1, PROGRESSIVE)

# Entropy-coded data, and the same data after each restart marker, because one of them is the next.
ANY = bytes(range(1, 255))
FILLER = ANY + b"".join(bytes((0xFF, 0xD0 + k)) + ANY for k in range(8))

LARGEST_COUNT = 500  # scans of a file. Each takes time, and it may have two bytes of data.

MISSING = 128
"""Value of a decoder for pixels without data."""


class Layout(NamedTuple):
    """The end of the image in its file, and whether it is progressive."""

    end: int
    progressive: bool


def opencv(content: bytes, flags: int) -> np.ndarray:
    """Decode bytes with OpenCV. OpenCV would end the process for a file name that is not UTF-8.

    Raises:
        ValueError: the content cannot be decoded.
    """
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        raise ValueError("it is damaged")
    return pixels


def decode_pixels(content: bytes) -> np.ndarray:
    """Grey ``(H, W)`` or BGR ``(H, W, 3)`` uint8, as stored.

    Raises:
        ValueError: the content cannot be decoded, or a part is missing.
    """
    found = layout(content)
    pixels = opencv(content, cv2.IMREAD_UNCHANGED)
    _refuse_cut(content, found.end, grey=False)
    return pixels


def decode_luma(content: bytes) -> np.ndarray:
    """The stored Y ``(H, W)`` uint8. It is decoded again only if its end may be missing.

    Raises:
        ValueError: the content cannot be decoded, or a part is missing.
    """
    found = layout(content)
    luma = opencv(content, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if found.progressive or ends_in_grey(luma):
        _refuse_cut(content, found.end, grey=True)
    return luma


def ends_in_grey(luma: np.ndarray) -> bool:
    """Whether the last 8 x 8 block of Y ``(H, W)`` looks like a missing block."""
    height, width = luma.shape
    return bool((luma[(height - 1) // 8 * 8 :, (width - 1) // 8 * 8 :] == MISSING).all())


def layout(content: bytes) -> Layout:
    """Read the layout of a JPEG from its markers.

    Raises:
        ValueError: the end is missing, or a scan before the end, or there are too many scans.
    """
    progressive, scans = False, 0
    left: dict[int, set[int]] = {}  # by component: coefficients that are still incomplete
    for marker, start, segment in _segments(content):
        if marker in FRAMES:
            progressive = marker == PROGRESSIVE
            left = {component: set(range(64)) for component in segment[6::3]}
        elif marker == SCAN:
            scans += 1
            if scans > LARGEST_COUNT:
                raise ValueError(f"it has more than {LARGEST_COUNT} scans")
            components, (first, last, bits) = segment[1:-3:2], segment[-3:]
            for component in components:
                left[component] -= set(range(first, last + 1)) if bits % 16 == 0 else set()
        elif marker == END and not any(left.values()):
            return Layout(len(content[:start].rstrip(b"\xff")), progressive)  # FF may fill up
        elif marker == END:
            raise ValueError("a scan is missing")
    raise ValueError("its end is missing")


def _segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, position and segment. Markers inside a segment (of a thumbnail) are skipped."""
    position = 2
    while match := MARKER.search(content, position):
        body = match.end() + 2
        position = match.end() + int.from_bytes(content[match.end() : body], "big")
        yield match[1][0], match.start(), content[body:position]


def _refuse_cut(content: bytes, end: int, grey: bool) -> None:
    """Raise ValueError if data are missing: only then further data before the end change pixels."""
    if _pillow(content, grey) != _pillow(content[:end] + FILLER + content[end:], grey):
        raise ValueError("a part before its end is missing")


def _pillow(content: bytes, grey: bool) -> bytes:
    """Decode pixels with Pillow, because OpenCV would print warnings."""
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        if grey:
            image.draft("L", None)
        return image.tobytes()
