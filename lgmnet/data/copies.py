"""Find copies of images, so that validation images are not trained on; identify test sets."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from lgmnet.data import stacks
from lgmnet.data.images import ImageError, read_training_pixels
from lgmnet.data.values import protocol_scale
from lgmnet.files import sha256


class Readable(Protocol):
    """Images of known sizes."""

    sizes: list[tuple[int, int]]

    def read(self, index: int) -> np.ndarray: ...


def same_files(paths: Sequence[Path], reserved: Sequence[Path]) -> set[Path]:
    """The ``paths`` with the same bytes as a reserved file; compares only files of equal size."""
    sizes = {_byte_count(path) for path in reserved}
    alike = [path for path in paths if _byte_count(path) in sizes]
    wanted = {_byte_count(path) for path in alike}
    known = {_digest(path) for path in reserved if _byte_count(path) in wanted}
    return {path for path in alike if _digest(path) in known}


def _byte_count(path: Path) -> int:
    """Size of a file in bytes; -1 for an array, and if the size cannot be read.

    Reading such a file raises the error later.
    """
    try:
        return -1 if stacks.is_array(path) else path.stat().st_size
    except OSError:
        return -1


def _digest(path: Path) -> str:
    try:
        return stacks.digest(path) if stacks.is_array(path) else sha256(path)
    except (OSError, ValueError):
        return str(path)  # a file that cannot be read has no readable copies


def files_fingerprint(names: Sequence[str], paths: Sequence[Path]) -> str:
    """SHA-256 of the names and the contents of image files, to tell two test sets apart."""
    lines = [f"{name} {_digest(path)}\n" for name, path in zip(names, paths, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def same_pixels(images: Readable, others: Iterable[np.ndarray]) -> set[int]:
    """Numbers of the images that equal one of ``others``, with a mean difference of at most 1/255.

    The comparison is not exact, because another version of a decoder may have packed a store.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for k, size in enumerate(images.sizes):
        alike.setdefault(size, []).append(k)
    samples: dict[tuple[int, ...], np.ndarray] = {}
    copies: set[int] = set()
    for pixels in others:
        size = pixels.shape[:2]
        numbers = alike.get(size, [])
        if not numbers:
            continue
        if size not in samples:
            samples[size] = np.stack([_sample(images.read(k)) for k in numbers])
        (near,) = np.nonzero(_distance(samples[size], _sample(pixels)) <= 1)
        copies.update(
            numbers[n] for n in near if _distance(images.read(numbers[n]), pixels).mean() <= 1
        )
    return copies


def readable_pixels(paths: Sequence[Path], color: str) -> Iterator[np.ndarray]:
    """The measured pixels of all images that can be read."""
    for path in paths:
        try:
            yield read_training_pixels(path, color)
        except ImageError:  # reported when the validation images are opened
            continue


def _sample(pixels: np.ndarray) -> np.ndarray:
    """Some pixels of the middle row, to compare a large store in seconds."""
    return pixels[pixels.shape[0] // 2, ::16].reshape(-1)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean difference along the last axis, in levels of 8 bits."""
    if a.dtype == b.dtype == np.uint8:
        return np.abs(a.astype(np.int16) - b).mean(axis=-1)
    return np.abs(protocol_scale(a) - protocol_scale(b)).mean(axis=-1)
