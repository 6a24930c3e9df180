"""Images in array files (.npy, .npz, .mat). An array file is like a folder of images.

``(H, W)`` is one image, and so is ``(H, W, C)`` with at most 64 channels. Another array with three
axes is ``(N, H, W)``; an array with four axes is ``(N, H, W, C)``. Three channels are RGB. A
complex ``(H, W)`` or ``(N, H, W)`` array gives images with two channels, real and imaginary part.
Image 17 of ``chest.npz`` has the path ``chest.npz/chest_017``. A single image has the path of its
file.

A file may also contain ``scale``: the number for white, or one number per image.
"""

import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lgmnet.arrays import read_arrays
from lgmnet.data.values import check_range

ENDINGS = frozenset((".npy", ".npz", ".mat"))
NAMES = ("image", "images", "cube", "counts", "x", "img", "img_expand", "HSI")
"""The last three: spectral cubes of KAIST and CAVE as the code of TSA-Net and MST reads them."""

KNOWN_WHITE = {"img_expand": 65536}
"""Of arrays whose name says it; that code divides CAVE's ``img_expand`` by this."""

CHANNELS = 64
"""A longer last axis is a width."""

KEPT = 4
"""Number of files kept in memory per process, so that not every image decompresses its file."""


class Stack(NamedTuple):
    """The content of a file: an array ``(N, H, W)`` or ``(N, H, W, C)``, and its white if given.

    ``scale`` has one number per image.
    """

    array: np.ndarray
    scale: np.ndarray | None

    @property
    def dtype(self) -> np.dtype:
        """Type of the images that `read` returns."""
        plain = self.scale is None and self.array.dtype in (np.uint8, np.uint16)
        return self.array.dtype if plain else np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, *channels = self.array.shape[1:]
        count = channels[0] if channels else 1
        return height, width, 2 * count if np.iscomplexobj(self.array) else count


def container(path: Path) -> Path:
    """The file of an image: ``chest.npz`` for ``chest.npz/chest_017``, else ``path``."""
    inside = path.parent.suffix.lower() in ENDINGS and path.parent.is_file()
    return path.parent if inside else path


def is_array(path: Path) -> bool:
    """Whether an image is in an array file."""
    return container(path).suffix.lower() in ENDINGS


def members(path: Path) -> list[Path]:
    """The images of an array file; the file itself if it has one image, or cannot be read."""
    try:
        count = len(_open(path).array)
    except ValueError:  # reading the file raises the error later
        return [path]
    if count == 1:
        return [path]
    return [path / _name(path, k, count) for k in range(count)]


def describe(path: Path) -> tuple[int, int, int, np.dtype]:
    """Height, width and channels of an image, and its type.

    Raises:
        ValueError: see `read`; the values are not checked.
    """
    stack, _ = _find(path)
    return *stack.shape, stack.dtype


def read(path: Path) -> np.ndarray:
    """``(H, W)`` or ``(H, W, C)``, uint8, uint16 or float32; three channels are BGR.

    Raises:
        ValueError: the file is missing or damaged, does not have exactly one array of images, or
            has values that are not finite or larger than white.
    """
    stack, index = _find(path)
    image = stack.array[index]
    if stack.scale is not None:
        image = np.asarray(image, np.result_type(image, np.float64)) / stack.scale[index]
    image = check_range(image, str(path))
    if np.iscomplexobj(image):
        image = np.stack([image.real, image.imag], axis=-1)
    image = image.astype(stack.dtype)
    if image.ndim == 3 and image.shape[2] == 1:
        return np.ascontiguousarray(image[:, :, 0])
    turned = image.ndim == 3 and image.shape[2] == 3
    return np.ascontiguousarray(image[:, :, ::-1] if turned else image)


def digest(path: Path) -> str:
    """SHA-256 of the shape and values of an image. It does not depend on the file format.

    Raises:
        ValueError: see `read`.
    """
    image = read(path)
    return hashlib.sha256(f"{image.dtype} {image.shape} ".encode() + image.tobytes()).hexdigest()


def _name(file: Path, index: int, count: int) -> str:
    """Name of one of several images."""
    digits = max(3, len(str(count - 1)))
    stem = file.stem.replace(".", "_")  # a dot would look like the start of an ending
    return f"{stem}_{index:0{digits}d}"


def _find(path: Path) -> tuple[Stack, int]:
    file = container(path)
    stack = _open(file)
    count = len(stack.array)
    if path == file and count == 1:
        return stack, 0
    number = path.name.rpartition("_")[2]
    index = int(number) if number.isdecimal() else count
    if path == file or index >= count or path.name != _name(file, index, count):
        first, last = (_name(file, k, count) for k in (0, count - 1))
        raise ValueError(f"{path} is not an image; {file} has {count} images, {first} to {last}")
    return stack, index


def _open(path: Path) -> Stack:
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an array ({error})") from None
    return _load(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(KEPT)
def _load(path: Path, size: int, modified_ns: int) -> Stack:
    """The content of the file. Size and time are keys of the cache, to detect changes."""
    try:
        arrays = read_arrays(path, mapped=True)
    except Exception as error:  # each reader has other error types for a damaged file
        raise ValueError(f"{path} cannot be read as an array ({error})") from None
    name = _chosen(arrays, path)
    array = _as_images(arrays[name], path)
    scale = arrays.get("scale")
    if scale is None and name in KNOWN_WHITE:
        scale = np.array(KNOWN_WHITE[name])
    if scale is None and array.dtype.kind in "iu" and array.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{path} contains integers ({array.dtype}) with unknown white; store them as uint8 or "
            "uint16, or store the number for white as 'scale'"
        )
    return Stack(array, None if scale is None else _white(scale, len(array), path))


def _chosen(arrays: dict[str, np.ndarray], path: Path) -> str:
    """The name of the array of images among those of the file."""
    numeric = {k: a for k, a in arrays.items() if a.dtype.kind in "buifc" and k != "scale"}
    named = [name for name in NAMES if name in numeric]
    found = named[:1] or list(numeric)
    if len(found) != 1:
        held = ", ".join(sorted(numeric)) or "no array of numbers"
        raise ValueError(f"{path} contains {held}; name the images one of {', '.join(NAMES)}")
    return found[0]


def _as_images(array: np.ndarray, path: Path) -> np.ndarray:
    """``(N, H, W)`` or ``(N, H, W, C)``."""
    last = array.shape[-1] if array.ndim else 0
    one = array.ndim == 2 or (array.ndim == 3 and last <= CHANNELS)
    expected = "(H, W), (H, W, C), (N, H, W) or (N, H, W, C)"
    fits = one or array.ndim == 3 or (array.ndim == 4 and last <= CHANNELS)
    if np.iscomplexobj(array):
        expected = f"(H, W) or (N, H, W) with W above {CHANNELS}, because it is complex"
        fits = array.ndim == 2 or (array.ndim == 3 and not one)
    if not fits or not array.size:
        raise ValueError(
            f"{path} contains an array of shape {array.shape}, expected {expected}, with at most "
            f"{CHANNELS} channels C; permute its axes"
        )
    return array[None] if one else array


def _white(scale: np.ndarray, count: int, path: Path) -> np.ndarray:
    """The number for white of each image."""
    numbers = np.ravel(scale)
    if scale.dtype.kind not in "uif" or numbers.size not in (1, count):
        raise ValueError(
            f"'scale' in {path} has shape {scale.shape} ({scale.dtype}), expected one number, or "
            f"one for each of the {count} images"
        )
    if not (np.isfinite(numbers) & (numbers > 0)).all():
        raise ValueError(f"'scale' in {path} is not positive; give the number for white")
    return np.broadcast_to(numbers.astype(np.float64), count)
