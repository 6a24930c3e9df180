"""The pixels of a JPEG file, and whether they are all there.

A decoder takes a file that ends too early without an error: what is missing becomes grey, or, in
a progressive one, coarse.
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

# Any entropy-coded data, and the same after each restart marker: one of them is the next.
ANY = bytes(range(1, 255))
FILLER = ANY + b"".join(bytes((0xFF, 0xD0 + k)) + ANY for k in range(8))

MISSING = 128
"""What a decoder puts where nothing is left to decode."""


class Layout(NamedTuple):
    """Where the image ends in its file, and whether it is progressive."""

    end: int
    progressive: bool


def opencv(content: bytes, flags: int) -> np.ndarray:
    """What OpenCV decodes. From bytes: a name that is not UTF-8 would end the process.

    Raises:
        ValueError: it cannot be decoded.
    """
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        raise ValueError("it is damaged")
    return pixels


def decode_pixels(content: bytes) -> np.ndarray:
    """Grey ``(H, W)`` or BGR ``(H, W, 3)`` uint8, as stored.

    Raises:
        ValueError: it cannot be decoded, or a part of it is missing.
    """
    pixels = opencv(content, cv2.IMREAD_UNCHANGED)
    _refuse_cut(content, layout(content).end, grey=False)
    return pixels


def decode_luma(content: bytes) -> np.ndarray:
    """The Y ``(H, W)`` uint8 that is stored; decoded again only where its end may be missing.

    Raises:
        ValueError: it cannot be decoded, or a part of it is missing.
    """
    luma = opencv(content, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    found = layout(content)
    if found.progressive or ends_in_grey(luma):
        _refuse_cut(content, found.end, grey=True)
    return luma


def ends_in_grey(luma: np.ndarray) -> bool:
    """Whether the last 8 x 8 block of Y ``(H, W)`` is what a decoder puts for a missing one."""
    height, width = luma.shape
    return bool((luma[(height - 1) // 8 * 8 :, (width - 1) // 8 * 8 :] == MISSING).all())


def layout(content: bytes) -> Layout:
    """What the markers of a JPEG say.

    Raises:
        ValueError: the end is missing, or a scan before it.
    """
    progressive = False
    left: dict[int, set[int]] = {}  # by component: coefficients that are not, or not fully, there
    for marker, start, segment in _segments(content):
        if marker in FRAMES:
            progressive = marker == PROGRESSIVE
            left = {component: set(range(64)) for component in segment[6::3]}
        elif marker == SCAN:
            components, (first, last, bits) = segment[1:-3:2], segment[-3:]
            for component in components:
                left[component] -= set(range(first, last + 1)) if bits % 16 == 0 else set()
        elif marker == END and not any(left.values()):
            return Layout(len(content[:start].rstrip(b"\xff")), progressive)  # FF may fill up
        elif marker == END:
            raise ValueError("a scan is missing")
    raise ValueError("its end is missing")


def _segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, its place and its segment, in which there may be markers of a thumbnail."""
    position = 2
    while match := MARKER.search(content, position):
        body = match.end() + 2
        position = match.end() + int.from_bytes(content[match.end() : body], "big")
        yield match[1][0], match.start(), content[body:position]


def _refuse_cut(content: bytes, end: int, grey: bool) -> None:
    """Where data are missing, data put before the end change the pixels; else they do not."""
    if _pillow(content, grey) != _pillow(content[:end] + FILLER + content[end:], grey):
        raise ValueError("a part before its end is missing")


def _pillow(content: bytes, grey: bool) -> bytes:
    """Pixels as Pillow decodes them: it does not print what it meets, as OpenCV does."""
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        if grey:
            image.draft("L", None)
        return image.tobytes()
