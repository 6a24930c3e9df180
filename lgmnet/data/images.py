"""Image files: finding, checking and reading them.

An image is shown as its EXIF orientation says (of a PNG: one that stands before the pixels).
Sizes, pixels and luma are those of the upright image.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image

from lgmnet.data import jpeg_content
from lgmnet.data.color import luma
from lgmnet.files import write_whole

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm"))

# What files of these names may hold: their content says which, whatever the name.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
JPEG_FORMATS = ("JPEG", "MPO")  # the latter by telephones, with more images behind the first

# Modes of the header that hold 8-bit grey or colour, with or without an alpha channel.
READABLE_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA"))

# Where systems keep thumbnails, copies and what was deleted; so do names that begin with a dot.
SYSTEM_FOLDERS = frozenset(("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX"))


class ImageError(ValueError):
    """A file that cannot be used as an image; the message says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: object) -> str:
    r"""A path or name as text that any file takes: bytes that are not UTF-8 become ``\udcff``."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


class Scan(NamedTuple):
    """What `scan` found: usable files with their sizes, and why the others are not."""

    paths: list[Path]
    sizes: list[tuple[int, int]]
    rejected: dict[Path, str]


def list_images(folder: Path) -> list[Path]:
    """All image files below ``folder``, sorted by path, so that every run sees one order.

    Links to folders are followed, each folder is searched once. Hidden files and folders are left
    out. A folder that cannot be read stands in the list itself: reading it says so.

    Raises:
        ImageError: the folder is missing or holds no image.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ImageError(f"there is no folder {folder}; give a folder of images")
    paths = sorted(_walk(folder))
    if not paths:
        raise ImageError(
            f"{folder} holds no image ({', '.join(sorted(EXTENSIONS))}), neither do its subfolders"
        )
    return paths


def _walk(folder: Path) -> Iterator[Path]:
    closed: list[Path] = []
    searched = set()
    for where, folders, files in os.walk(
        folder, followlinks=True, onerror=lambda error: closed.append(Path(error.filename))
    ):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        if os.path.realpath(where) in searched:
            folders.clear()
            continue
        searched.add(os.path.realpath(where))
        named = (Path(where, name) for name in files if not _is_hidden(name))
        yield from (p for p in named if p.suffix.lower() in EXTENSIONS and not _is_special(p))
    yield from closed


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _is_special(path: Path) -> bool:
    """A pipe or device, say; a broken link is none: it is said to be unreadable."""
    return os.path.exists(path) and not os.path.isfile(path)


def read_header(path: Path) -> tuple[int, int]:
    """``(height, width)`` of the upright image, without decoding the pixels.

    Raises:
        ImageError: no image, or one that holds no 8-bit grey or colour (16 bit, CMYK, float), or
            that is larger than Pillow's limit against decompression bombs.
    """
    with _opened(path) as image:
        return _upright_size(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path, formats=FORMATS)
    except Exception as error:  # what a damaged file raises is not foreseeable
        raise ImageError(f"{path} cannot be read as an image ({error})") from None
    with image:
        mode = ("16-bit " if _is_deep(image) else "") + image.mode
        if mode not in READABLE_MODES:
            raise ImageError(
                f"{path} holds {mode} pixels, expected 8-bit grey or RGB; convert it first, "
                "so that the conversion is yours and not a guess"
            )
        yield image


def _is_deep(image: Image.Image) -> bool:
    """Whether it has 16 bits. Pillow calls 16-bit colour RGB too; its decoder's arguments tell."""
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    if image.format == "PPM" and isinstance(arguments[0], tuple):  # mode and largest value
        return arguments[0][-1] > 255
    return ";16" in str(arguments)


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF counts them. Pillow turns a TIFF by itself."""
    try:
        # PNG's own method would decode all pixels, to look behind them too.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # as above; the pixels may be right
        value = None
    return value if value in (2, 3, 4, 5, 6, 7, 8) and image.format != "TIFF" else 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (width, height) if _orientation(image) > 4 else (height, width)


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def scan(paths: Sequence[Path], smallest: int) -> Scan:
    """Check headers: which files are readable and at least ``smallest`` pixels on each side."""
    found = Scan([], [], {})
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, result in zip(paths, pool.map(_try_header, paths), strict=True):
            if isinstance(result, str):
                found.rejected[path] = result
            elif min(result) < smallest:
                size = f"{result[0]} x {result[1]} pixels"
                found.rejected[path] = printable(f"{path} is too small: {size}")
            else:
                found.paths.append(path)
                found.sizes.append(result)
    return found


def _try_header(path: Path) -> tuple[int, int] | str:
    try:
        return read_header(path)
    except ImageError as error:
        return str(error)


def read_pixels(path: Path) -> np.ndarray:
    """Exact pixels of a test image: grey ``(H, W)`` or BGR ``(H, W, 3)``, uint8.

    Raises:
        ImageError: unreadable, truncated, not 8-bit grey or colour, or partly transparent.
    """
    return _read(path, jpeg_content.decode_pixels)


def read_training_luma(path: Path) -> np.ndarray:
    """Y ``(H, W)`` uint8: the luma of `read_pixels`; of a JPEG the Y that is stored, which is fast.

    For training only: the Y inside a JPEG is not that of its RGB pixels. In 40 images of BSDS500
    it differs in 2 % of the pixels, mostly by one level.

    Raises:
        ImageError: as `read_pixels`.
    """
    return luma(_read(path, jpeg_content.decode_luma))


def _read(path: Path, decode_jpeg: Callable[[bytes], np.ndarray]) -> np.ndarray:
    with _opened(path) as image:
        # Before the pixels are decoded: Pillow forgets the orientation of a TIFF then.
        size, orientation = _upright_size(image), _orientation(image)
        try:
            jpeg = image.format in JPEG_FORMATS
            pixels = decode_jpeg(path.read_bytes()) if jpeg else _decode(image, path)
        except Exception as error:  # as above
            raise ImageError(f"{path} cannot be decoded ({error}); it may be truncated") from None
    if pixels.ndim == 3 and (pixels[:, :, 3:] != 255).any():
        raise ImageError(f"{path} is partly transparent; flatten it onto a background first")
    pixels = _turn(pixels[:, :, :3] if pixels.ndim == 3 else pixels, orientation)
    if pixels.shape[:2] != size:
        raise ImageError(f"{path} has {pixels.shape[:2]} pixels, but its header says {size}")
    return pixels


def _decode(image: Image.Image, path: Path) -> np.ndarray:
    """Grey ``(H, W)``, BGR ``(H, W, 3)`` or BGRA ``(H, W, 4)`` of any format but JPEG."""
    if image.format == "PNG":  # Pillow does not compare the checksums of the pixels
        return jpeg_content.opencv(path.read_bytes(), cv2.IMREAD_UNCHANGED)
    if "A" in image.mode or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))[:, :, (2, 1, 0, 3)]
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))  # writable
    return np.asarray(image.convert("RGB"))[:, :, ::-1]


def read_plain_jpeg(path: Path) -> bytes | None:
    """The file, if it is a JPEG that other decoders show as `read_training_luma` does.

    None for other formats, and for a JPEG that is to be turned, cut short or progressive.
    """
    try:
        with _opened(path) as image:
            plain = image.format in JPEG_FORMATS and _orientation(image) == 1
        content = path.read_bytes()
        return content if plain and not jpeg_content.layout(content).progressive else None
    except (ValueError, OSError):
        return None


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 grey or BGR pixels; the format follows the name.

    Raises:
        ImageError: the file cannot be written. Then there is none, or still the old one.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise ImageError(f"cannot write {path}: no image format; use a name such as x.png")
    try:
        encoded, content = cv2.imencode(path.suffix, pixels)
    except cv2.error:
        encoded = False
    if not encoded:
        raise ImageError(
            f"cannot write {path}: its format does not take pixels of shape {pixels.shape}; use a "
            "name such as x.png"
        )
    try:
        write_whole(path, lambda temporary: temporary.write_bytes(content.tobytes()))
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error}") from None


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float image in [0, 1] -> uint8, clipped and rounded: for saving, not for scoring."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
