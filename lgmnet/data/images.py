"""Image files: finding, checking and reading them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm"))

# Modes of the header that hold 8-bit grey or colour, with or without an alpha channel.
READABLE_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA"))


JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


class ImageError(ValueError):
    """A file that cannot be used as an image; the message says why and what to do."""


class Scan(NamedTuple):
    """What `scan` found: usable files with their sizes, and why the others are not."""

    paths: list[Path]
    sizes: list[tuple[int, int]]
    rejected: dict[Path, str]


def list_images(folder: Path) -> list[Path]:
    """All image files below ``folder``, sorted by path, so that every run sees one order.

    Raises:
        ImageError: the folder is missing or holds no image.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ImageError(f"there is no folder {folder}; give a folder of images")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not paths:
        raise ImageError(
            f"{folder} holds no image ({', '.join(sorted(EXTENSIONS))}), neither do its subfolders"
        )
    return paths


def read_header(path: Path) -> tuple[int, int]:
    """``(height, width)`` as stored, without decoding the pixels.

    Raises:
        ImageError: no image, or one that holds no 8-bit grey or colour (16 bit, CMYK, float).
    """
    try:
        with Image.open(path) as image:
            # Pillow calls 16-bit colour RGB too; only its decoder's arguments tell.
            mode, (width, height) = image.mode, image.size
            mode = "16-bit " + mode if ";16" in str(image.tile) else mode
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} cannot be read as an image ({error})") from None
    if mode not in READABLE_MODES:
        raise ImageError(
            f"{path} holds {mode} pixels, expected 8-bit grey or RGB; convert it first, "
            "so that the conversion is yours and not a guess"
        )
    return height, width


def scan(paths: Sequence[Path], smallest: int) -> Scan:
    """Check headers: which files are readable and at least ``smallest`` pixels on each side."""
    found = Scan([], [], {})
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, result in zip(paths, pool.map(_try_header, paths), strict=True):
            if isinstance(result, str):
                found.rejected[path] = result
            elif min(result) < smallest:
                found.rejected[path] = f"{path} is too small: {result[0]} x {result[1]} pixels"
            else:
                found.paths.append(path)
                found.sizes.append(result)
    return found


def _try_header(path: Path) -> tuple[int, int] | str:
    try:
        return read_header(path)
    except ImageError as error:
        return str(error)


def read_training_luma(path: Path) -> np.ndarray:
    """Y ``(H, W)`` uint8, decoded as grey: fast, and nearly the luma of `read_pixels`.

    For training only: the Y inside a JPEG is not that of its RGB pixels. In 40 images of BSDS500
    it differs in 2 % of the pixels, mostly by one level.
    """
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or _is_cut_short(path):
        raise ImageError(f"{path} cannot be decoded; it may be truncated")
    return pixels


def is_whole_jpeg(content: bytes) -> bool:
    """Whether the bytes of a file begin and (but for a few) end as a JPEG does."""
    return content.startswith(JPEG_START) and JPEG_END in content[-64:]


def _is_cut_short(path: Path) -> bool:
    """A JPEG without its end: OpenCV fills the missing part with grey, and says nothing."""
    with path.open("rb") as file:
        if file.read(len(JPEG_START)) != JPEG_START:
            return False
        # Some writers add a few bytes after the end.
        file.seek(-min(64, file.seek(0, os.SEEK_END)), os.SEEK_END)
        if JPEG_END in file.read():
            return False
    # Telephones append whole films: only decoding tells those from a cut.
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return True
    return False


def read_pixels(path: Path) -> np.ndarray:
    """Exact pixels of a test image: grey ``(H, W)`` or BGR ``(H, W, 3)``, uint8.

    Raises:
        ImageError: unreadable, truncated, not 8-bit grey or colour, or partly transparent.
    """
    read_header(path)
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint8 or _is_cut_short(path):
        raise ImageError(f"{path} cannot be decoded as 8-bit grey or colour; it may be truncated")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if (pixels[:, :, 3] != 255).any():
            raise ImageError(f"{path} is partly transparent; flatten it onto a background first")
        pixels = np.ascontiguousarray(pixels[:, :, :3])
    return pixels


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 grey or BGR pixels; the format follows the name.

    Raises:
        ImageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = cv2.imwrite(str(path), pixels)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error}") from None
    except cv2.error as error:
        raise ImageError(f"cannot write {path}: {error.err}; use a name such as x.png") from None
    if not written:
        raise ImageError(f"cannot write {path}; is the disk full or the folder read-only?")


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float image in [0, 1] -> uint8, clipped and rounded: for saving, not for scoring."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
