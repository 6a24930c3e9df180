"""Sets of images: for training (names, sizes, luma on demand) and for testing."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from lgmnet.data import builtin
from lgmnet.data.images import (
    ImageError,
    list_images,
    printable,
    read_pixels,
    read_training_luma,
    scan,
)
from lgmnet.data.packed import PackedImages
from lgmnet.files import sha256


class TrainingImages(Protocol):
    """What a crop needs to know of a set of images."""

    names: list[str]
    sizes: list[tuple[int, int]]

    def read(self, index: int) -> np.ndarray:
        """Y ``(H, W)`` uint8 of one image; ImageError if it cannot be decoded."""
        ...


class FileImages:
    """Image files, decoded whenever they are used."""

    def __init__(self, paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
        self.paths = list(paths)
        self.names = [printable(path.name) for path in paths]
        self.sizes = list(sizes)

    def read(self, index: int) -> np.ndarray:
        luma, size = read_training_luma(self.paths[index]), self.sizes[index]
        if luma.shape != size:
            raise ImageError(f"{self.paths[index]} has {luma.shape} pixels now, it had {size}")
        return luma


class Subset:
    """Some images of a set."""

    def __init__(self, images: TrainingImages, keep: Sequence[int]) -> None:
        self.images = images
        self.keep = list(keep)
        self.names = [images.names[k] for k in keep]
        self.sizes = [images.sizes[k] for k in keep]

    def read(self, index: int) -> np.ndarray:
        return self.images.read(self.keep[index])


class NamedImage(NamedTuple):
    """Name and exact pixels: grey ``(H, W)`` or BGR ``(H, W, 3)``, uint8."""

    name: str
    pixels: np.ndarray


class TestSet:
    """Test images of one folder, one file, or the built-in part; read one at a time.

    Args:
        folder: that is searched, and what is put there later belongs to the set.
    """

    def __init__(self, name: str, paths: Sequence[Path], folder: Path | None = None) -> None:
        self.name = printable(name)
        self.paths = list(paths)
        self.names = [printable(path.stem) for path in self.paths]
        self.folder = folder
        if len(set(self.names)) < len(self.names):
            twice = next(n for n in self.names if self.names.count(n) > 1)
            raise ImageError(
                f"test set {name} has two images named '{twice}'; rename one, or score the "
                "subfolders one by one"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def share(self, rank: int, processes: int) -> "TestSet":
        """Every ``processes``-th image, from number ``rank`` on."""
        return TestSet(self.name, self.paths[rank::processes], self.folder)

    def __iter__(self) -> Iterator[NamedImage]:
        for name, path in zip(self.names, self.paths, strict=True):
            yield NamedImage(name, read_pixels(path))


def find_folder(name: str, roots: Sequence[Path]) -> Path:
    """A folder or file by path, or by name below ``roots`` (also in their ``train/``).

    Raises:
        ImageError: it is nowhere; the message says where it was sought and how to get it.
    """
    candidates = [Path(name)]
    if not Path(name).is_absolute():
        candidates += [root / part / name for root in roots for part in ("", "train")]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    if Path(name).is_absolute():
        raise ImageError(f"there are no images at {name}; give an existing folder or file")
    looked = ", ".join(str(c) for c in candidates)
    raise ImageError(
        f"there are no images '{name}' (looked at {looked}); give a path, or get a known set: "
        "python scripts/prepare_data.py --list"
    )


def open_test_set(name: str, roots: Sequence[Path]) -> TestSet:
    """``builtin``, a known test set such as Set11, or any folder or image file."""
    if name == "builtin":
        return TestSet(name, builtin.paths(builtin.TEST))
    folder = find_folder(name, roots)
    name = folder.stem if folder.is_file() else folder.resolve().name
    return TestSet(name, list_images(folder), folder if folder.is_dir() else None)


def open_test_sets(names: Sequence[str], roots: Sequence[Path]) -> list[TestSet]:
    """Several test sets; two of the same name would overwrite each other and are refused."""
    sets = [open_test_set(name, roots) for name in names]
    found = [images.name for images in sets]
    for name in found:
        if found.count(name) > 1:
            raise ImageError(
                f"two test sets are named '{name}'; rename one folder, or score them one by one"
            )
    return sets


def open_training_images(
    names: Sequence[str], roots: Sequence[Path], smallest: int, reserved: Sequence[Path] = ()
) -> tuple[TrainingImages, dict[str, str]]:
    """Images of folders or one packed store, and what was left out with the reason.

    Args:
        smallest: images with a shorter side are left out, in pixels.
        reserved: files for another purpose. They are left out too, and so are copies of them:
            files of the same bytes; in a packed store, images of the same pixels.

    Raises:
        ImageError: nothing usable is left.
    """
    if any(name.endswith(".luma") for name in names):
        if len(names) > 1:
            raise ImageError(f"data.train is {list(names)}; a packed store stands alone")
        return _open_packed(find_folder(names[0], roots), smallest, reserved)
    paths: list[Path] = []
    for name in names:
        builtins = builtin.paths(builtin.TRAIN) if name == "builtin" else None
        paths += builtins or list_images(find_folder(name, roots))
    taken = _copies(paths, reserved)
    found = scan([path for path in paths if path not in taken], smallest)
    for path in taken:
        found.rejected[path] = printable(f"{path} is a validation image, or a copy of one")
    if not found.paths:
        first = next(iter(found.rejected.values()))
        raise ImageError(
            f"none of the {len(paths)} images in {', '.join(names)} can be used; the first: {first}"
        )
    rejected = {printable(path): reason for path, reason in found.rejected.items()}
    return FileImages(found.paths, found.sizes), rejected


def _copies(paths: Sequence[Path], reserved: Sequence[Path]) -> set[Path]:
    """Those ``paths`` that hold the bytes of a reserved file; only equal sizes are compared."""
    sizes = {_byte_count(path) for path in reserved}
    alike = [path for path in paths if _byte_count(path) in sizes]
    wanted = {_byte_count(path) for path in alike}
    known = {_digest(path) for path in reserved if _byte_count(path) in wanted}
    return {path for path in alike if _digest(path) in known}


def _byte_count(path: Path) -> int:
    """-1 for a file that cannot be asked: reading it will say so."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:
        return str(path)  # it has no copies that could be read


def _open_packed(
    path: Path, smallest: int, reserved: Sequence[Path]
) -> tuple[TrainingImages, dict[str, str]]:
    images = PackedImages(path)
    taken = _same_pixels(images, _readable_lumas(reserved))
    keep, rejected = [], {}
    for k, (name, size) in enumerate(zip(images.names, images.sizes, strict=True)):
        if min(size) < smallest:
            rejected[name] = f"{name} is too small: {size[0]} x {size[1]} pixels"
        elif k in taken:
            rejected[name] = f"{name} is a copy of a validation image"
        else:
            keep.append(k)
    if not keep:
        first = next(iter(rejected.values()))
        raise ImageError(f"none of the images in {path} can be used; the first: {first}")
    return Subset(images, keep), rejected


def _same_pixels(images: TrainingImages, lumas: Iterable[np.ndarray]) -> set[int]:
    """Numbers of the images that are one of ``lumas``, within a level.

    Not to the bit: a store may have been packed with another version of a decoder.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for k, size in enumerate(images.sizes):
        alike.setdefault(size, []).append(k)
    samples: dict[tuple[int, ...], np.ndarray] = {}
    copies: set[int] = set()
    for luma in lumas:
        numbers = alike.get(luma.shape, [])
        if not numbers:
            continue
        if luma.shape not in samples:
            samples[luma.shape] = np.stack([_sample(images.read(k)) for k in numbers])
        (near,) = np.nonzero(_distance(samples[luma.shape], _sample(luma)) <= 1)
        copies.update(
            numbers[n] for n in near if _distance(images.read(numbers[n]), luma).mean() <= 1
        )
    return copies


def _readable_lumas(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    for path in paths:
        try:
            yield read_training_luma(path)
        except ImageError:  # named where the validation images are opened
            continue


def _sample(luma: np.ndarray) -> np.ndarray:
    """Some pixels of the middle row, so that a large store is compared in seconds."""
    return luma[luma.shape[0] // 2, ::16]


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean difference along the last axis, in levels."""
    return np.abs(a.astype(np.int16) - b).mean(axis=-1)


def readable(images: TrainingImages) -> tuple[Subset, dict[str, str]]:
    """The images that can be decoded, and why the others cannot, by name.

    Raises:
        ImageError: none can.
    """
    kept, rejected = [], {}
    for k, name in enumerate(images.names):
        try:
            images.read(k)
            kept.append(k)
        except ImageError as error:
            rejected[name] = str(error)
    if not kept:
        raise ImageError(f"none of the {len(images.names)} images can be decoded")
    return Subset(images, kept), rejected


def without_copies(
    images: TrainingImages, held: TrainingImages
) -> tuple[TrainingImages, dict[str, str]]:
    """The images that are no copy of one in ``held``, and why the others are left out.

    Files are compared by their bytes, images of a packed store by their pixels.
    """
    ours, theirs = (
        [path for k in range(len(s.names)) if (path := file_of(s, k))] for s in (images, held)
    )
    if ours and theirs:
        copies = _copies(ours, theirs)
        taken = {k for k, path in enumerate(ours) if path in copies}
    else:
        taken = _same_pixels(images, (held.read(k) for k in range(len(held.names))))
    rejected = {
        images.names[k]: f"{images.names[k]} is a copy of a validation image" for k in taken
    }
    return Subset(images, [k for k in range(len(images.names)) if k not in taken]), rejected


def file_of(images: TrainingImages, index: int) -> Path | None:
    """The file of an image; None in a packed store."""
    while isinstance(images, Subset):
        index, images = images.keep[index], images.images
    return images.paths[index] if isinstance(images, FileImages) else None


def split(images: TrainingImages, held_out: Iterable[str]) -> tuple[Subset, Subset]:
    """``(kept, held out)`` by file name.

    Raises:
        ImageError: a name is not among the images, or nothing is kept.
    """
    wanted = set(held_out)
    short = [name.rsplit("/", 1)[-1] for name in images.names]
    missing = wanted - set(short)
    if missing:
        raise ImageError(
            f"{len(missing)} of {len(wanted)} held out images are not in data.train, such as "
            f"{sorted(missing)[0]}; data.validation or data.exclude is a list for other images"
        )
    out = [k for k, name in enumerate(short) if name in wanted]
    kept = [k for k, name in enumerate(short) if name not in wanted]
    if not kept:
        raise ImageError("all training images are held out; nothing is left to train on")
    return Subset(images, kept), Subset(images, out)
