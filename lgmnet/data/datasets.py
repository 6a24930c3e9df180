"""Sets of images: for training (names, sizes, luma on demand) and for testing."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from lgmnet.data import builtin
from lgmnet.data.images import ImageError, list_images, read_pixels, read_training_luma, scan
from lgmnet.data.packed import PackedImages


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
        self.names = [path.name for path in paths]
        self.sizes = list(sizes)

    def read(self, index: int) -> np.ndarray:
        return read_training_luma(self.paths[index])


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
    """Test images of one folder, one file, or the built-in part; read one at a time."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name = name
        self.paths = list(paths)
        names = [path.stem for path in self.paths]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise ImageError(
                f"test set {name} has two images named '{twice}'; rename one, or score the "
                "subfolders one by one"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def share(self, rank: int, processes: int) -> "TestSet":
        """Every ``processes``-th image, from number ``rank`` on."""
        return TestSet(self.name, self.paths[rank::processes])

    def __iter__(self) -> Iterator[NamedImage]:
        for path in self.paths:
            yield NamedImage(path.stem, read_pixels(path))


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
    return TestSet(name, list_images(folder))


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
        reserved: files for another purpose, which are left out too.

    Raises:
        ImageError: nothing usable is left.
    """
    if any(name.endswith(".luma") for name in names):
        if len(names) > 1:
            raise ImageError(f"data.train is {list(names)}; a packed store stands alone")
        return _open_packed(find_folder(names[0], roots), smallest, {p.name for p in reserved})
    paths: list[Path] = []
    for name in names:
        builtins = builtin.paths(builtin.TRAIN) if name == "builtin" else None
        paths += builtins or list_images(find_folder(name, roots))
    taken = {path.resolve() for path in reserved}
    found = scan([path for path in paths if path.resolve() not in taken], smallest)
    for path in paths:
        if path.resolve() in taken:
            found.rejected[path] = f"{path} is a validation image"
    if not found.paths:
        first = next(iter(found.rejected.values()))
        raise ImageError(
            f"none of the {len(paths)} images in {', '.join(names)} can be used; the first: {first}"
        )
    rejected = {str(path): reason for path, reason in found.rejected.items()}
    return FileImages(found.paths, found.sizes), rejected


def _open_packed(
    path: Path, smallest: int, reserved: set[str]
) -> tuple[TrainingImages, dict[str, str]]:
    images = PackedImages(path)
    keep, rejected = [], {}
    for k, (name, size) in enumerate(zip(images.names, images.sizes, strict=True)):
        if min(size) < smallest:
            rejected[name] = f"{name} is too small: {size[0]} x {size[1]} pixels"
        elif name.rsplit("/", 1)[-1] in reserved:
            rejected[name] = f"{name} has the name of a validation image"
        else:
            keep.append(k)
    if not keep:
        first = next(iter(rejected.values()))
        raise ImageError(f"none of the images in {path} can be used; the first: {first}")
    return Subset(images, keep), rejected


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
