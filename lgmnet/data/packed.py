"""A packed store: the luma of a folder of images in one memory-mapped file.

A crop from it is a slice of mapped memory instead of the decoding of a whole image.

Layout: magic (8 bytes), the pixels of all images one after the other (uint8, row-major), the
index as UTF-8 JSON ``[[name, height, width, crc32], ...]`` (without the checksum of the pixels in
older stores), and a footer of fixed size: length of the
index (8 bytes, little endian), its SHA-256 (32 bytes), magic.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from lgmnet.data.images import ImageError, list_images, printable, read_training_luma
from lgmnet.files import naming, write_text

MAGIC = b"LGMLUMA1"
FOOTER = 8 + 32 + len(MAGIC)


class PackedImages:
    """A packed store, opened for reading. Pixels are read from disk when they are used.

    The first time that an image is used in a process, its pixels are compared with their checksum.

    Raises:
        ImageError: no packed store, cut short, or its index was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self._sums: list[int | None] = []  # of the images that were not looked at yet
        for name, height, width, *checksum in _read_index(path):
            self.names.append(name)
            self.sizes.append((height, width))
            self._sums.append(checksum[0] if checksum else None)
        areas = [height * width for height, width in self.sizes]
        self._starts = np.concatenate([[len(MAGIC)], len(MAGIC) + np.cumsum(areas, dtype=np.int64)])
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def __reduce__(self) -> tuple[type["PackedImages"], tuple[Path]]:
        # Another process maps the file again: a pickled map would be a copy of all pixels.
        return PackedImages, (self.path,)

    def read(self, index: int) -> np.ndarray:
        """Y ``(H, W)`` uint8 of one image, mapped, not copied.

        Raises:
            ImageError: the pixels are not those that were packed.
        """
        start = int(self._starts[index])
        height, width = self.sizes[index]
        pixels = self._bytes[start : start + height * width]
        checksum = self._sums[index]
        if checksum is not None and zlib.crc32(pixels.data) != checksum:
            raise ImageError(
                f"the pixels of {self.names[index]} in {self.path} are damaged (their checksum is "
                "another); pack the folder again with prepare_data.py --pack"
            )
        self._sums[index] = None
        return pixels.reshape(height, width)


class Packed(NamedTuple):
    """A line of the journal: a file as it was when it was packed; height 0 if it was left out."""

    name: str
    size: int
    modified_ns: int
    height: int
    width: int
    crc32: int


def pack(folder: Path, output: Path) -> None:
    """Pack all images below ``folder`` into ``output``; continues where a stopped run ended.

    Progress lies in ``<output>.part`` and ``<output>.journal``; ``output`` appears when it is
    complete. Files that cannot be decoded are left out and named. What a stopped run packed is
    used again up to the first file that came, went or changed since.

    Raises:
        ImageError: the folder holds no usable image.
        OSError: it cannot be written; ``output`` is as before.
    """
    if output.suffix != ".luma":
        raise ImageError(f"a packed store is a .luma file, not {output.name}; name it x.luma")
    output.parent.mkdir(parents=True, exist_ok=True)
    part, journal = Path(f"{output}.part"), Path(f"{output}.journal")
    try:
        with naming(output, part, journal):
            _pack(folder, output, part, journal)
    except OSError:
        if part.exists() and part.stat().st_size <= len(MAGIC):  # nothing to continue with
            part.unlink()
            journal.unlink()
        raise


def _pack(folder: Path, output: Path, part: Path, journal: Path) -> None:
    paths = list_images(folder)
    done = _resume(part, journal, folder, paths)
    lines = [printable(folder.resolve()), *map(json.dumps, done)]
    write_text(journal, "\n".join(lines) + "\n")  # without a torn last line
    with part.open("r+b" if done else "wb") as pixels, journal.open("a", encoding="utf-8") as log:
        if not done:
            pixels.write(MAGIC)
        pixels.seek(len(MAGIC) + sum(file.height * file.width for file in done))
        pixels.truncate()
        for path in tqdm(paths[len(done) :], desc=f"packing {printable(folder)}", unit="image"):
            luma, stamp = np.empty((0, 0), np.uint8), _stamp(path, folder)
            try:
                luma = read_training_luma(path)
            except ImageError as error:
                tqdm.write(f"left out: {error}")
            pixels.write(luma.tobytes())
            pixels.flush()
            done.append(Packed(*stamp, *luma.shape, zlib.crc32(luma.tobytes())))
            log.write(json.dumps(done[-1]) + "\n")
            log.flush()
        index = [(f.name, f.height, f.width, f.crc32) for f in done if f.height]
        if not index:
            raise ImageError(f"{folder} holds no image that can be decoded; nothing to pack")
        _write_footer(pixels, index)
    os.replace(part, output)
    journal.unlink()
    left_out = len(done) - len(index)
    print(f"{printable(output)}: {len(index)} images packed, {left_out} left out")


def _stamp(path: Path, folder: Path) -> tuple[str, int, int]:
    """Name below ``folder``, size and time; zeros where the file cannot even be asked."""
    name = path.relative_to(folder).as_posix() if path != folder else path.name
    try:
        status = path.stat()
    except OSError:
        return printable(name), 0, 0
    return printable(name), status.st_size, status.st_mtime_ns


def _write_footer(file, index: list[tuple[str, int, int, int]]) -> None:  # type: ignore[no-untyped-def]
    text = json.dumps(index).encode()
    file.write(text + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + MAGIC)
    file.flush()
    os.fsync(file.fileno())


def _resume(part: Path, journal: Path, folder: Path, paths: list[Path]) -> list[Packed]:
    """What an interrupted run has packed and left out of the first ``paths``, as they are now."""
    if not (part.is_file() and journal.is_file()):
        return []
    first, *lines = journal.read_text("utf-8", errors="replace").splitlines() or [""]
    done: list[Packed] = []
    free = part.stat().st_size - len(MAGIC)
    for line, path in zip(lines, paths, strict=False):  # there may be more of either
        file = _journal_entry(line)
        if file is None or file[:3] != _stamp(path, folder) or file.height * file.width > free:
            break
        free -= file.height * file.width
        done.append(file)
    return done if first == printable(folder.resolve()) else []


def _journal_entry(line: str) -> Packed | None:
    """None for a torn line, or one of another version."""
    try:
        return Packed(*json.loads(line))
    except (ValueError, TypeError):
        return None


def _read_index(path: Path) -> list[tuple[Any, ...]]:
    if not path.is_file():
        raise ImageError(f"there is no packed store {path}; make it with prepare_data.py --pack")
    size = path.stat().st_size
    broken = f"{path} is no complete packed store; pack it again with prepare_data.py --pack"
    with path.open("rb") as file:
        if size < len(MAGIC) + FOOTER or file.read(len(MAGIC)) != MAGIC:
            raise ImageError(broken)
        file.seek(size - FOOTER)
        footer = file.read(FOOTER)
        length = int.from_bytes(footer[:8], "little")
        if footer[-len(MAGIC) :] != MAGIC or length > size - FOOTER:
            raise ImageError(broken)
        file.seek(size - FOOTER - length)
        text = file.read(length)
    if hashlib.sha256(text).digest() != footer[8:40]:
        raise ImageError(broken)
    index = _index_entries(text)
    if not index or len(MAGIC) + sum(e[1] * e[2] for e in index) + length + FOOTER != size:
        raise ImageError(broken)
    return index


def _index_entries(text: bytes) -> list[tuple[Any, ...]]:
    """Names, sizes and checksums; none if anything in the index is something else."""
    try:
        entries = [tuple(entry) for entry in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        return []
    return entries if all(map(_is_entry, entries)) else []


def _is_entry(entry: tuple[Any, ...]) -> bool:
    if len(entry) not in (3, 4) or type(entry[0]) is not str:
        return False
    return all(type(number) is int for number in entry[1:]) and min(entry[1:3]) > 0
