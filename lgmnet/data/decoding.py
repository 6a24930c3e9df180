"""The type of the pixels of an image that Pillow has opened, and their decoding.

A JPEG is decoded by `lgmnet.data.jpeg_content`.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from lgmnet.data import jpeg_content, tiff_content

# Pillow's modes for 8-bit grey or colour, with or without an alpha channel.
READABLE_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA"))
GREY_MODES = frozenset(("1", "L", "I", "I;16", "I;16B", "I;16L", "F"))
UNCOMPRESSED = ("raw", "ppm", "ppm_plain")  # names of Pillow's decoders
SCALES = {"L;2": 85, "L;4": 17}  # Pillow multiplies grey values of 2 or 4 bits


def is_readable(image: Image.Image) -> bool:
    """Whether this type of pixels is supported for the format of the image."""
    if pixel_type(image) == np.uint8:
        return image.mode in READABLE_MODES
    if image.mode not in READABLE_MODES | GREY_MODES:
        return False
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        # Decoders do not invert these values if 0 is white.
        negative = tags.get(tiff_content.PHOTOMETRIC) == tiff_content.WHITE_IS_ZERO
        # Mode I may have negative values.
        return image.mode != "I" and not tiff_content.is_planar(tags) and not negative
    return image.format == "PNG" and image.mode != "F"


def pixel_type(image: Image.Image) -> np.dtype:
    """uint8, uint16 or float32."""
    if image.mode == "F":
        return np.dtype(np.float32)
    return np.dtype(np.uint16 if is_deep(image) else np.uint8)


def is_deep(image: Image.Image) -> bool:
    """Whether the image has 16 bits. Pillow's mode RGB includes them, but its decoder differs."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8  # type: ignore[attr-defined]
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    if image.format == "PPM" and isinstance(arguments[0], tuple):  # mode and largest value
        return arguments[0][-1] > 255
    return ";16" in str(arguments)


def decode(image: Image.Image, path: Path) -> np.ndarray:
    """Grey ``(H, W)``, BGR ``(H, W, 3)`` or BGRA ``(H, W, 4)`` of any format except JPEG.

    Raises:
        Exception: of any type, if the file is damaged.
    """
    _refuse_short(image, path)
    if image.format == "TIFF":
        tiff_content.refuse_incomplete(path.read_bytes(), image.tag_v2)  # type: ignore[attr-defined]
    if image.format == "PNG":  # Pillow does not compare the checksums of the pixels
        content = without_profile(path.read_bytes())
        pixels = jpeg_content.opencv(content, cv2.IMREAD_UNCHANGED)
        return _with_key(pixels, image) if pixels.ndim == 2 else pixels
    if image.mode in GREY_MODES - {"1", "L"}:
        return np.array(image).astype(pixel_type(image))  # in the byte order of this machine
    if is_deep(image):  # Pillow keeps 8 of the 16 bits, but detects damage
        image.load()
        return jpeg_content.opencv(path.read_bytes(), cv2.IMREAD_UNCHANGED)
    if "A" in image.mode or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))[:, :, (2, 1, 0, 3)]
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))  # writable
    return np.asarray(image.convert("RGB"))[:, :, ::-1]


def without_profile(content: bytes) -> bytes:
    """A PNG file without its colour profile.

    The profile does not change the decoded pixels. For many profiles libpng prints a warning.
    """
    place = 8  # after the signature come chunks: length, type, data, checksum
    while content[place + 4 : place + 8] not in (b"IDAT", b""):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] == b"iCCP":
            return content[:place] + content[end:]
        place = end
    return content


def _refuse_short(image: Image.Image, path: Path) -> None:
    """Raise ValueError if an uncompressed file has less than a bit per pixel.

    Pillow would take the memory of the image first.
    """
    tiles, size = getattr(image, "tile", None), path.stat().st_size
    if tiles and tiles[0][0] in UNCOMPRESSED and image.width * image.height > 8 * size:
        raise ValueError(f"it has {size} bytes for {image.width * image.height} pixels")


def _with_key(grey: np.ndarray, image: Image.Image) -> np.ndarray:
    """A grey PNG may name one level as transparent. OpenCV ignores it, so it becomes alpha here."""
    key = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    if not isinstance(key, int) or not tiles:
        return grey
    transparent = np.equal(grey, key * SCALES.get(str(tiles[0][3]), 1))
    if not transparent.any():
        return grey
    alpha = np.where(transparent, 0, np.iinfo(grey.dtype).max).astype(grey.dtype)
    return np.dstack([grey, grey, grey, alpha])
