"""Find, check and read image files.

An image is rotated as its EXIF orientation says (in a PNG, only if it comes before the pixels).
Sizes, pixels and luma are those of the upright image. The first page of a TIFF is the image. Array
files are like folders of images, see `lgmnet.data.stacks`.
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

from lgmnet.data import color, float_tiff, jpeg_content, stacks
from lgmnet.data.decoding import GREY_MODES, decode, is_deep, is_readable, pixel_type
from lgmnet.data.values import check_range, to_uint8, white
from lgmnet.files import write_whole

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm"))

# Supported formats. The content of a file decides, not its name.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
JPEG_FORMATS = ("JPEG", "MPO")  # telephones write MPO, with more images after the first

# Folders in which systems keep thumbnails, copies and deleted files. Names with a dot are similar.
SYSTEM_FOLDERS = frozenset(("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX"))


class ImageError(ValueError):
    """A file that cannot be used as an image; the message says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: object) -> str:
    r"""A path or name as UTF-8 text: bytes that are not UTF-8 become ``\udcff``."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


class Header(NamedTuple):
    """Properties of an image, known before decoding; ``dtype`` is the type of its pixels."""

    height: int
    width: int
    channels: int
    dtype: np.dtype


class Scan(NamedTuple):
    """The result of `scan`: usable files with sizes and headers, and why others are rejected."""

    paths: list[Path]
    sizes: list[tuple[int, int]]
    rejected: dict[Path, str]
    headers: list[Header]


def list_images(folder: Path) -> list[Path]:
    """All images below ``folder``, sorted by path, so that the order is the same in every run.

    Links to folders are followed, but each folder is searched once. Hidden files and folders are
    left out. A folder that cannot be read is in the list itself, so that reading it raises the
    error. Array files are used only if there are no image files, because array files beside images
    usually contain other data.

    Args:
        folder: a folder or one file. An array file may contain several images.

    Raises:
        ImageError: the folder is missing or contains no image.
    """
    if folder.is_file():
        return stacks.members(folder) if stacks.is_array(folder) else [folder]
    if not folder.is_dir():
        raise ImageError(f"there is no folder {folder}; give a folder of images")
    paths = sorted(_walk(folder))
    images = [path for path in paths if not stacks.is_array(path)]
    if not any(path.is_file() for path in images):
        images += [
            image for path in paths if stacks.is_array(path) for image in stacks.members(path)
        ]
    if not images:
        endings = ", ".join(sorted(EXTENSIONS | stacks.ENDINGS))
        raise ImageError(f"{folder} and its subfolders contain no image ({endings})")
    return sorted(images)


def _walk(folder: Path) -> Iterator[Path]:
    closed: list[Path] = []
    endings = EXTENSIONS | stacks.ENDINGS
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
        yield from (p for p in named if p.suffix.lower() in endings and not _is_special(p))
    yield from closed


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _is_special(path: Path) -> bool:
    """Whether the path is a pipe or device, for example. A broken link is not special."""
    return os.path.exists(path) and not os.path.isfile(path)


def read_header(path: Path) -> tuple[int, int]:
    """``(height, width)`` of the upright image, without decoding the pixels.

    Raises:
        ImageError: see `inspect`.
    """
    return inspect(path)[:2]


def inspect(path: Path) -> Header:
    """The header of an image file. The pixels of an array file are read.

    Raises:
        ImageError: the file is not an image, its type is not supported (CMYK, 32-bit integers), or
            it is larger than Pillow's limit against decompression bombs.
    """
    if stacks.is_array(path):
        with _image_errors():
            return Header(*stacks.describe(path))
    if (pixels := _float_pixels(path)) is not None:
        height, width, *three = pixels.shape
        return Header(height, width, 3 if three else 1, pixels.dtype)
    with _opened(path) as image:
        channels = 1 if image.mode in GREY_MODES else 3
        return Header(*_upright_size(image), channels, pixel_type(image))


def _float_pixels(path: Path) -> np.ndarray | None:
    with _image_errors():
        return float_tiff.decode(path)


@contextmanager
def _image_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ImageError(str(error)) from None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path, formats=FORMATS)
    except Exception as error:  # a damaged file can raise any error
        raise ImageError(f"{path} cannot be read as an image ({error})") from None
    with image:
        if not is_readable(image):
            mode = ("16-bit " if is_deep(image) else "") + image.mode
            raise ImageError(
                f"{path} has {mode} pixels, expected 8-bit grey or RGB (PNG and TIFF: also "
                "16-bit; TIFF: also float, but not in planes); convert it first, because the "
                "right conversion is not known here"
            )
        yield image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. Always 1 for a TIFF, which Pillow rotates itself."""
    try:
        # The method of PNG images would decode all pixels, to search after them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # a damaged header can raise any error; the pixels may be correct
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
    """Find the readable files with at least ``smallest`` pixels per side, from their headers."""
    found = Scan([], [], {}, [])
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, result in zip(paths, pool.map(_try_header, paths), strict=True):
            if isinstance(result, str):
                found.rejected[path] = result
            elif min(result[:2]) < smallest:
                size = f"{result.height} x {result.width} pixels"
                if result.channels > 3:
                    size += f", {result.channels} bands (the last axis)"
                found.rejected[path] = printable(f"{path} is too small: {size}")
            else:
                found.paths.append(path)
                found.sizes.append(result[:2])
                found.headers.append(result)
    return found


def _try_header(path: Path) -> Header | str:
    try:
        return inspect(path)
    except ImageError as error:
        return str(error)


def read_pixels(path: Path) -> np.ndarray:
    """Exact pixels of a test image: uint8, uint16 or float32 (1.0 is white).

    Grey ``(H, W)``, BGR ``(H, W, 3)``, or ``(H, W, C)`` from an array file.

    Raises:
        ImageError: the image is unreadable, truncated, transparent, or of an unsupported type.
    """
    return _read(path, jpeg_content.decode_pixels)


def read_training_luma(path: Path) -> np.ndarray:
    """Y ``(H, W)`` as in `read_pixels`. For a JPEG it is the stored Y, which is faster to decode.

    Use it for training only, because the stored Y of a JPEG is not the Y of its RGB pixels. In 40
    images of BSDS500 it differs in 2 % of the pixels, mostly by one level.

    Raises:
        ImageError: see `read_pixels`; or the image has neither one channel nor three.
    """
    pixels = _read(path, jpeg_content.decode_luma)
    with _image_errors():
        return color.luma(pixels)


def read_training_pixels(path: Path, policy: str) -> np.ndarray:
    """The channels that are measured together, ``(H, W)`` or ``(H, W, C)`` in RGB order.

    Args:
        policy: see `lgmnet.data.color`.

    Raises:
        ImageError: see `read_training_luma`.
    """
    if policy == "luma":
        return read_training_luma(path)
    pixels = read_pixels(path)
    with _image_errors():
        return color.channels(pixels, policy)[0]


def _read(path: Path, decode_jpeg: Callable[[bytes], np.ndarray]) -> np.ndarray:
    if stacks.is_array(path):
        with _image_errors():
            return stacks.read(path)
    if (pixels := _float_pixels(path)) is not None:
        with _image_errors():
            return check_range(pixels, str(path))
    with _opened(path) as image:
        # Before decoding, because decoding removes the orientation of a TIFF in Pillow.
        size, orientation, kind = _upright_size(image), _orientation(image), pixel_type(image)
        try:
            jpeg = image.format in JPEG_FORMATS
            pixels = decode_jpeg(path.read_bytes()) if jpeg else decode(image, path)
        except Exception as error:  # a damaged file can raise any error
            raise ImageError(f"{path} cannot be decoded ({error}); it may be truncated") from None
    if pixels.ndim == 3 and (pixels[:, :, 3:] != white(pixels.dtype)).any():
        raise ImageError(f"{path} is partly transparent; flatten it onto a background first")
    pixels = _turn(pixels[:, :, :3] if pixels.ndim == 3 else pixels, orientation)
    if pixels.shape[:2] != size or pixels.dtype != kind:
        found = f"{pixels.shape[:2]} {pixels.dtype} pixels"
        raise ImageError(f"{path} has {found}, but its header states {size} {kind}")
    with _image_errors():
        return check_range(pixels, str(path))


def read_plain_jpeg(path: Path) -> bytes | None:
    """The content of a JPEG file that other decoders decode in the same way.

    None for other formats, and for a JPEG that needs a rotation, is cut short, or is progressive.
    """
    try:
        with _opened(path) as image:
            plain = image.format in JPEG_FORMATS and _orientation(image) == 1
        content = path.read_bytes()
        return content if plain and not jpeg_content.layout(content).progressive else None
    except (ValueError, OSError):
        return None


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 grey or BGR pixels; the ending of the name gives the format.

    Raises:
        ImageError: the file cannot be written. An old file is then unchanged.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise ImageError(f"cannot write {path}: unknown image format; use a name such as x.png")
    try:
        encoded, content = cv2.imencode(path.suffix, pixels)
    except cv2.error:
        encoded = False
    if not encoded:
        raise ImageError(
            f"cannot write {path}: its format does not support pixels of shape {pixels.shape}; use "
            "a name such as x.png"
        )
    try:
        write_whole(path, lambda temporary: temporary.write_bytes(content.tobytes()))
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error}") from None


def write_reconstruction(path: Path, image: np.ndarray) -> None:
    """Write an image on the unit scale: one or three channels (BGR) as PNG, others as .npy.

    Args:
        path: without an ending.

    Raises:
        ImageError: as `write_image`.
    """
    if image.ndim == 2 or image.shape[2] == 3:
        write_image(path.with_name(f"{path.name}.png"), to_uint8(image))
        return
    write_array(path.with_name(f"{path.name}.npy"), image)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write numbers as a float32 .npy file.

    Raises:
        ImageError: as `write_image`.
    """
    try:
        write_whole(path, lambda temporary: _save(temporary, array.astype(np.float32)))
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error}") from None


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # with a path NumPy would add an ending
        np.save(file, array)
