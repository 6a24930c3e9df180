"""A packed store: the measured pixels of a folder of images in one memory-mapped file.

A crop is a slice of mapped memory, so no image has to be decoded. A ``.luma`` file contains 8-bit
luma. A ``.packed`` file contains any type of pixels and any number of channels.

Layout: magic (8 bytes), the pixels of all images one after the other (row-major, the channels of a
pixel together, little endian), the index as UTF-8 JSON, and a footer of fixed size: length of the
index (8 bytes, little endian), its SHA-256 (32 bytes), magic. The index of a .luma file is
``[[name, height, width, crc32], ...]``. The index of a .packed file is ``{"color": …,
"channels": …, "dtype": …, "images": [[name, height, width, crc32], ...]}``. Older stores have no
``crc32``, the checksum of the pixels of an image.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from lgmnet.data import stacks
from lgmnet.data.color import channel_count
from lgmnet.data.images import (
    ImageError,
    list_images,
    printable,
    read_training_luma,
    read_training_pixels,
    scan,
)
from lgmnet.data.values import as_type, common_type
from lgmnet.files import naming, write_text

MAGIC = b"LGMLUMA1"
ANY_MAGIC = b"LGMPACK1"
FOOTER = 8 + 32 + len(MAGIC)
ENDINGS = (".luma", ".packed")


class Layout(NamedTuple):
    """Common properties of all images of a store; ``color``: see `lgmnet.data.color`."""

    color: str = "luma"
    channels: int = 1
    dtype: str = "uint8"
    magic: bytes = MAGIC

    def bytes(self, height: int, width: int) -> int:
        """Size of an image in bytes."""
        return height * width * self.channels * np.dtype(self.dtype).itemsize

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of an image."""
        return (height, width) if self.channels == 1 else (height, width, self.channels)


Index = list[tuple[Any, ...]]  # name, height, width and, in newer stores, the checksum


class PackedImages:
    """A packed store, opened for reading. Pixels are read from disk on first use.

    The first time that an image is used in a process, its pixels are compared with their checksum.

    Raises:
        ImageError: the file is not a packed store, is cut short, or its index was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self._sums: list[int | None] = []  # of the images that were not compared yet
        self.layout, index = _read_index(path)
        for name, height, width, *checksum in index:
            self.names.append(name)
            self.sizes.append((height, width))
            self._sums.append(checksum[0] if checksum else None)
        self.color, self.channels = self.layout.color, self.layout.channels
        self.dtype = common_type([np.dtype(self.layout.dtype)])
        bytes_of = [self.layout.bytes(*size) for size in self.sizes]
        ends = len(MAGIC) + np.cumsum(bytes_of, dtype=np.int64)
        self._starts = np.concatenate([[len(MAGIC)], ends])
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def __reduce__(self) -> tuple[type["PackedImages"], tuple[Path]]:
        # Another process maps the file again, because pickling would copy all pixels.
        return PackedImages, (self.path,)

    def read(self, index: int) -> np.ndarray:
        """The mapped pixels ``(H, W)`` or ``(H, W, channels)`` of an image, in the store's type.

        Raises:
            ImageError: the pixels have changed since they were packed.
        """
        start, end = map(int, self._starts[index : index + 2])
        self._compare(index, self._bytes[start:end])
        pixels = self._bytes[start:end].view(np.dtype(self.layout.dtype).newbyteorder("<"))
        return pixels.reshape(self.layout.shape(*self.sizes[index]))

    def _compare(self, index: int, content: np.ndarray) -> None:
        """Compare the bytes of an image with its checksum, once."""
        checksum = self._sums[index]
        if checksum is not None and zlib.crc32(content.data) != checksum:
            raise ImageError(
                f"the pixels of {self.names[index]} in {self.path} are damaged (their checksum is "
                "wrong); pack the folder again with prepare_data.py --pack"
            )
        self._sums[index] = None


class Packed(NamedTuple):
    """A line of the journal: properties of a file when it was packed; height 0 if left out."""

    name: str
    size: int
    modified_ns: int
    height: int
    width: int
    crc32: int


def pack(folder: Path, output: Path, color: str = "luma") -> None:
    """Pack all images below ``folder`` into ``output``, and continue after a stopped run.

    The progress is in ``<output>.part`` and ``<output>.journal``. ``output`` is written when it is
    complete. Files that cannot be decoded are left out and named. After a stop, packed images are
    kept up to the first file that was added, removed or changed.

    Args:
        output: ``x.luma`` for 8-bit luma, ``x.packed`` for all other pixels. A .packed store has
            the type of its images; for different types, float32 on the unit scale.
        color: packed channels: luma, color or bands; see `lgmnet.data.color`.

    Raises:
        ImageError: the folder contains no usable image, or ``output`` has another ending.
        OSError: the store cannot be written; ``output`` is as before.
    """
    paths = list_images(folder)
    layout = _layout(paths, output, color)
    output.parent.mkdir(parents=True, exist_ok=True)
    part, journal = Path(f"{output}.part"), Path(f"{output}.journal")
    try:
        with naming(output, part, journal):
            _pack(folder, paths, output, layout)
    except OSError:
        if part.exists() and part.stat().st_size <= len(MAGIC):  # nothing to continue with
            part.unlink()
            journal.unlink()
        raise


def _pack(folder: Path, paths: list[Path], output: Path, layout: Layout) -> None:
    part, journal = Path(f"{output}.part"), Path(f"{output}.journal")
    head = _journal_head(folder, layout)
    done = _resume(part, journal, folder, paths, layout)
    lines = [head, *map(json.dumps, done)]
    write_text(journal, "\n".join(lines) + "\n")  # without an incomplete last line
    with part.open("r+b" if done else "wb") as pixels, journal.open("a", encoding="utf-8") as log:
        if not done:
            pixels.write(layout.magic)
        pixels.seek(len(MAGIC) + sum(layout.bytes(file.height, file.width) for file in done))
        pixels.truncate()
        for path in tqdm(paths[len(done) :], desc=f"packing {printable(folder)}", unit="image"):
            image, stamp = np.empty((0, 0), layout.dtype), _stamp(path, folder)
            try:
                image = _read_for(layout, path)
            except ImageError as error:
                tqdm.write(f"left out: {error}")
            pixels.write(image.tobytes())
            pixels.flush()
            done.append(Packed(*stamp, *image.shape[:2], zlib.crc32(image.tobytes())))
            log.write(json.dumps(done[-1]) + "\n")
            log.flush()
        index = [(f.name, f.height, f.width, f.crc32) for f in done if f.height]
        if not index:
            raise ImageError(f"{folder} contains no image that can be decoded; nothing to pack")
        _write_footer(pixels, index, layout)
    os.replace(part, output)
    journal.unlink()
    left_out = len(done) - len(index)
    print(f"{printable(output)}: {len(index)} images packed, {left_out} left out")


def _layout(paths: list[Path], output: Path, color: str) -> Layout:
    """The layout of a new store. For a .packed store, the headers of all images are read."""
    if output.suffix == ".luma" and color == "luma":
        return Layout()
    if output.suffix != ".packed":
        raise ImageError(
            f"a packed store of luma is a .luma file, others are .packed files, not {output.name}; "
            f"name it {'x.luma' if color == 'luma' else 'x.packed'}"
        )
    headers = scan(paths, 1).headers
    if not headers:
        raise ImageError(f"the folder of {output.name} contains no image that can be decoded")
    types = {header.dtype for header in headers}
    dtype = str(types.pop()) if len(types) == 1 else "float32"
    return Layout(color, channel_count(headers[0].channels, color), dtype, ANY_MAGIC)


def _read_for(layout: Layout, path: Path) -> np.ndarray:
    """An image in the format of the store.

    Raises:
        ImageError: it cannot be decoded, or its type or channels do not fit the store.
    """
    luma = layout.color == "luma"
    pixels = read_training_luma(path) if luma else read_training_pixels(path, layout.color)
    if layout.magic == MAGIC and pixels.dtype != np.uint8:
        raise ImageError(
            f"{path} has {pixels.dtype} pixels, but a .luma store needs uint8; use .packed"
        )
    if pixels.shape != layout.shape(*pixels.shape[:2]):
        raise ImageError(f"{path} has shape {pixels.shape}; the first image has other channels")
    return as_type(pixels, np.dtype(layout.dtype)).astype(np.dtype(layout.dtype).newbyteorder("<"))


def _journal_head(folder: Path, layout: Layout) -> str:
    """The first line of a journal, which identifies the folder and the kind of store."""
    named = printable(folder.resolve())
    return named if layout.magic == MAGIC else f"{named} {' '.join(map(str, layout[:3]))}"


def _stamp(path: Path, folder: Path) -> tuple[str, int, int]:
    """Name below ``folder``, size and time; zeros if the file status cannot be read."""
    name = path.relative_to(folder).as_posix() if path != folder else path.name
    try:
        status = stacks.container(path).stat()
    except OSError:
        return printable(name), 0, 0
    return printable(name), status.st_size, status.st_mtime_ns


def _write_footer(file, index: Index, layout: Layout) -> None:  # type: ignore[no-untyped-def]
    content: Any = index
    if layout.magic == ANY_MAGIC:
        kind = {"color": layout.color, "channels": layout.channels, "dtype": layout.dtype}
        content = {**kind, "images": index}
    text = json.dumps(content).encode()
    digest = hashlib.sha256(text).digest()
    file.write(text + len(text).to_bytes(8, "little") + digest + layout.magic)
    file.flush()
    os.fsync(file.fileno())


def _resume(
    part: Path, journal: Path, folder: Path, paths: list[Path], layout: Layout
) -> list[Packed]:
    """The entries of an interrupted run that still agree with the first ``paths``."""
    if not (part.is_file() and journal.is_file()):
        return []
    first, *lines = journal.read_text("utf-8", errors="replace").splitlines() or [""]
    done: list[Packed] = []
    free = part.stat().st_size - len(MAGIC)
    for line, path in zip(lines, paths, strict=False):  # the lengths may differ
        file = _journal_entry(line)
        size = layout.bytes(file.height, file.width) if file else 0
        if file is None or file[:3] != _stamp(path, folder) or size > free:
            break
        free -= size
        done.append(file)
    return done if first == _journal_head(folder, layout) else []


def _journal_entry(line: str) -> Packed | None:
    """The entry of a line; None for an incomplete line, or one of another version."""
    try:
        return Packed(*json.loads(line))
    except (ValueError, TypeError):
        return None


def _read_index(path: Path) -> tuple[Layout, Index]:
    if not path.is_file():
        raise ImageError(f"there is no packed store {path}; make it with prepare_data.py --pack")
    size = path.stat().st_size
    broken = f"{path} is not a complete packed store; pack it again with prepare_data.py --pack"
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if size < len(MAGIC) + FOOTER or magic not in (MAGIC, ANY_MAGIC):
            raise ImageError(broken)
        file.seek(size - FOOTER)
        footer = file.read(FOOTER)
        length = int.from_bytes(footer[:8], "little")
        if footer[-len(MAGIC) :] != magic or length > size - FOOTER:
            raise ImageError(broken)
        file.seek(size - FOOTER - length)
        text = file.read(length)
    if hashlib.sha256(text).digest() != footer[8:40]:
        raise ImageError(broken)
    layout, index = _index_content(text, magic)
    pixels = sum(layout.bytes(height, width) for _, height, width, *_ in index)
    if not index or len(MAGIC) + pixels + length + FOOTER != size:
        raise ImageError(broken)
    return layout, index


def _index_content(text: bytes, magic: bytes) -> tuple[Layout, Index]:
    """Layout and entries of an index; no entries if the index is not valid."""
    try:
        content = json.loads(text)
        layout = Layout()
        if magic == ANY_MAGIC:
            layout = Layout(content["color"], content["channels"], content["dtype"], magic)
            content = content["images"]
        entries = [tuple(entry) for entry in content]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Layout(), []
    sound = _is_sound(layout) and all(map(_is_entry, entries))
    return layout, entries if sound else []


def _is_entry(entry: tuple[Any, ...]) -> bool:
    """Name, height and width, and in newer stores the checksum."""
    if len(entry) not in (3, 4) or type(entry[0]) is not str:
        return False
    return all(type(number) is int for number in entry[1:]) and min(entry[1:3]) > 0


def _is_sound(layout: Layout) -> bool:
    known = layout.color in ("luma", "color", "bands")
    known = known and layout.dtype in ("uint8", "uint16", "float32")
    return known and type(layout.channels) is int and layout.channels > 0
