"""Sets of images for training (names, sizes, pixels on demand) and for testing."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from lgmnet.data import builtin
from lgmnet.data.color import channel_count
from lgmnet.data.copies import readable_pixels, same_files, same_pixels
from lgmnet.data.images import (
    ImageError,
    Scan,
    list_images,
    printable,
    read_pixels,
    read_training_pixels,
    scan,
)
from lgmnet.data.packed import ENDINGS, PackedImages
from lgmnet.data.values import common_type


class TrainingImages(Protocol):
    """Interface of a set of images for crops: names, sizes, and pixels on demand.

    channels: number of channels that are measured together, equal for all images.
    dtype: type of the crops, uint8 if all images are uint8, else float32 on the unit scale.
    """

    names: list[str]
    sizes: list[tuple[int, int]]
    channels: int
    dtype: np.dtype

    def read(self, index: int) -> np.ndarray:
        """Pixels ``(H, W)``, or ``(H, W, channels)`` for several: uint8, uint16 or float32.

        Raises:
            ImageError: the image cannot be decoded.
        """
        ...


class FileImages:
    """Images in files. They are decoded at every use.

    Args:
        color: measured channels: luma, color or bands; see `lgmnet.data.color`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        sizes: Sequence[tuple[int, int]],
        color: str = "luma",
        channels: int = 1,
        dtype: np.dtype | type = np.uint8,
    ) -> None:
        self.paths = list(paths)
        self.names = [printable(path.name) for path in paths]
        self.sizes = list(sizes)
        self.color = color
        self.channels = channels
        self.dtype = np.dtype(dtype)

    def read(self, index: int) -> np.ndarray:
        pixels, size = read_training_pixels(self.paths[index], self.color), self.sizes[index]
        expected = size if self.channels == 1 else (*size, self.channels)
        if pixels.shape != expected:
            raise ImageError(
                f"{self.paths[index]} has {pixels.shape} pixels now, it had {expected}"
            )
        if self.dtype == np.uint8 != pixels.dtype:
            raise ImageError(f"{self.paths[index]} has {pixels.dtype} pixels now, it had uint8")
        return pixels


def file_images(found: Scan, color: str) -> FileImages:
    """The images that `scan` found.

    Raises:
        ImageError: with ``color="bands"``, the images have different numbers of channels.
    """
    counts = [channel_count(header.channels, color) for header in found.headers]
    for path, count in zip(found.paths, counts, strict=True):
        if count != counts[0]:
            raise ImageError(
                f"data.color=bands: {found.paths[0]} has {counts[0]} channels and {path} {count}; "
                "put images with equal numbers of channels into a folder"
            )
    dtype = common_type([header.dtype for header in found.headers])
    return FileImages(found.paths, found.sizes, color, counts[0] if counts else 1, dtype)


def scan_measured(paths: Sequence[Path], smallest: int, color: str) -> Scan:
    """`scan`, which also rejects images that do not fit ``color``."""
    found = scan(paths, smallest)
    kept = Scan([], [], found.rejected, [])
    for path, size, header in zip(found.paths, found.sizes, found.headers, strict=True):
        if color != "bands" and header.channels not in (1, 3):
            found.rejected[path] = printable(
                f"{path} has {header.channels} channels, but data.color={color} needs one (grey) "
                "or three (RGB); set data.color=bands"
            )
        else:
            kept.paths.append(path)
            kept.sizes.append(size)
            kept.headers.append(header)
    return kept


class Subset:
    """Some images of a set."""

    def __init__(self, images: TrainingImages, keep: Sequence[int]) -> None:
        self.images = images
        self.keep = list(keep)
        self.names = [images.names[k] for k in keep]
        self.sizes = [images.sizes[k] for k in keep]
        self.channels = images.channels
        self.dtype = images.dtype

    def read(self, index: int) -> np.ndarray:
        return self.images.read(self.keep[index])


class NamedImage(NamedTuple):
    """Name and exact pixels: grey ``(H, W)``, BGR ``(H, W, 3)`` or other ``(H, W, C)``.

    uint8, uint16 or float32; see `lgmnet.data.values`.
    """

    name: str
    pixels: np.ndarray


class TestSet:
    """Test images of one folder, one file, or the built-in part. They are read one at a time.

    Args:
        folder: the searched folder. Files that are added there later belong to the set.
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
                "subfolders separately"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def share(self, rank: int, processes: int) -> "TestSet":
        """Every ``processes``-th image, from number ``rank`` on."""
        return TestSet(self.name, self.paths[rank::processes], self.folder)

    def __iter__(self) -> Iterator[NamedImage]:
        for name, path in zip(self.names, self.paths, strict=True):
            yield NamedImage(name, read_pixels(path))


# The end of a name that stands for some images of a set.
PART = re.compile(r"\[(\d*):(\d*)\]$")


def part_of(name: str) -> tuple[str, slice]:
    """The set and the images that a name stands for: ``Set11[2:4]`` are two images of Set11.

    Images are in the order of their paths and counted from 0, as in a Python list.
    """
    found = None if Path(name).exists() else PART.search(name)
    if found is None:
        return name, slice(None)
    first, last = (int(text) if text else None for text in found.groups())
    return name[: found.start()], slice(first, last)


def find_images(
    name: str, roots: Sequence[Path], own: tuple[str, ...] = builtin.TEST
) -> list[Path]:
    """The images of a folder or file (see `find_folder`), or of a part (see `part_of`).

    Args:
        own: the images that ``builtin`` stands for.

    Raises:
        ImageError: there is nothing, or no image in the part.
    """
    base, part = part_of(name)
    is_builtin = base == "builtin"
    paths = builtin.paths(own) if is_builtin else list_images(find_folder(base, roots))
    if not paths[part]:
        raise ImageError(f"{name} is empty: the set has {len(paths)} images, counted from 0")
    return paths[part]


def find_folder(name: str, roots: Sequence[Path]) -> Path:
    """A folder or file by path, or by name below ``roots`` (also in their ``train/``).

    Raises:
        ImageError: it does not exist; the message lists the searched folders and says how to get
            it.
    """
    candidates = [Path(name)]
    if not Path(name).is_absolute():
        candidates += [root / part / name for root in roots for part in ("", "train")]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    if Path(name).is_absolute():
        raise ImageError(f"there are no images at {name}; give an existing folder or file")
    # Of a name that begins with a root, such as data/coco2017, not data/data/coco2017.
    repeated = any(Path(name).is_relative_to(root) for root in roots)
    looked = ", ".join(str(c) for c in (candidates[:1] if repeated else candidates))
    raise ImageError(
        f"there are no images '{name}' (looked at {looked}); give a path, or get a known set: "
        "python scripts/prepare_data.py --list"
    )


def open_test_set(name: str, roots: Sequence[Path]) -> TestSet:
    """``builtin``, a known test set such as Set11, or any folder or image file."""
    base, part = part_of(name)
    paths = find_images(name, roots)
    label, folder = base, None
    if base != "builtin":
        folder = find_folder(base, roots)
        label = folder.stem if folder.is_file() else folder.resolve().name
    if part != slice(None):
        first = part.start or 0
        label += f"_{first}-{first + len(paths)}"
    return TestSet(label, paths, folder if folder and folder.is_dir() else None)


def open_test_sets(names: Sequence[str], roots: Sequence[Path]) -> list[TestSet]:
    """Several test sets.

    Raises:
        ImageError: two sets have the same name, so one would overwrite the other.
    """
    sets = [open_test_set(name, roots) for name in names]
    found = [images.name for images in sets]
    for name in found:
        if found.count(name) > 1:
            raise ImageError(
                f"two test sets are named '{name}'; rename one folder, or score them separately"
            )
    return sets


def open_training_images(
    names: Sequence[str],
    roots: Sequence[Path],
    smallest: int,
    reserved: Sequence[Path] = (),
    color: str = "luma",
) -> tuple[TrainingImages, dict[str, str]]:
    """Images of folders or of one packed store; and the images left out, with the reasons.

    Args:
        smallest: smallest side of an image, in pixels. Smaller images are left out.
        color: measured channels. A packed store must have been packed with the same value.
        reserved: files for another purpose. They and their copies are left out: files with the
            same bytes; in a packed store, images with the same pixels.

    Raises:
        ImageError: no usable image is left.
    """
    if any(name.endswith(ENDINGS) for name in names):
        if len(names) > 1:
            raise ImageError(f"data.train is {list(names)}; a packed store must be the only entry")
        return _open_packed(find_folder(names[0], roots), smallest, reserved, color)
    paths: list[Path] = []
    for name in names:
        paths += find_images(name, roots, builtin.TRAIN)
    taken = same_files(paths, reserved)
    found = scan_measured([path for path in paths if path not in taken], smallest, color)
    for path in taken:
        found.rejected[path] = printable(f"{path} is a validation image, or a copy of one")
    if not found.paths:
        first = next(iter(found.rejected.values()))
        raise ImageError(
            f"none of the {len(paths)} images in {', '.join(names)} can be used; the first: {first}"
        )
    rejected = {printable(path): reason for path, reason in found.rejected.items()}
    return file_images(found, color), rejected


def _open_packed(
    path: Path, smallest: int, reserved: Sequence[Path], color: str
) -> tuple[TrainingImages, dict[str, str]]:
    images = PackedImages(path)
    if images.color != color:
        raise ImageError(
            f"{path} was packed with color {images.color}, but data.color is {color}; set "
            f"data.color={images.color}, or pack it again: prepare_data.py --pack … --color {color}"
        )
    taken = same_pixels(images, readable_pixels(reserved, color))
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


def readable(images: TrainingImages) -> tuple[Subset, dict[str, str]]:
    """The images that can be decoded; and by name, why the others cannot be decoded.

    Raises:
        ImageError: no image can be decoded.
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
    """The images without copies of images in ``held``; and by name, why others are left out.

    Files are compared by their bytes, and images of a packed store by their pixels.
    """
    ours, theirs = (
        [path for k in range(len(s.names)) if (path := file_of(s, k))] for s in (images, held)
    )
    if ours and theirs:
        copies = same_files(ours, theirs)
        taken = {k for k, path in enumerate(ours) if path in copies}
    else:
        taken = same_pixels(images, (held.read(k) for k in range(len(held.names))))
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
    """Split images into ``(kept, held out)`` by file name.

    Raises:
        ImageError: a name does not belong to an image, or no image is kept.
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
