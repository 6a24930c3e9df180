"""A packed store: the luma of a folder of images in one memory-mapped file.

A crop from it is a slice of mapped memory instead of the decoding of a whole image.

Layout: magic (8 bytes), the pixels of all images one after the other (uint8, row-major), the
index as UTF-8 JSON ``[[name, height, width], ...]``, and a footer of fixed size: length of the
index (8 bytes, little endian), its SHA-256 (32 bytes), magic.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lgmnet.data.images import ImageError, list_images, read_header, read_training_luma

MAGIC = b"LGMLUMA1"
FOOTER = 8 + 32 + len(MAGIC)


class PackedImages:
    """A packed store, opened for reading. Pixels are read from disk when they are used.

    Raises:
        ImageError: no packed store, cut short, or its index was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        for name, height, width in _read_index(path):
            self.names.append(name)
            self.sizes.append((height, width))
        areas = [height * width for height, width in self.sizes]
        self._starts = np.concatenate([[len(MAGIC)], len(MAGIC) + np.cumsum(areas, dtype=np.int64)])
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def __reduce__(self) -> tuple[type["PackedImages"], tuple[Path]]:
        # Another process maps the file again: a pickled map would be a copy of all pixels.
        return PackedImages, (self.path,)

    def read(self, index: int) -> np.ndarray:
        """Y ``(H, W)`` uint8 of one image, mapped, not copied."""
        start = int(self._starts[index])
        height, width = self.sizes[index]
        return self._bytes[start : start + height * width].reshape(height, width)


def pack(folder: Path, output: Path) -> None:
    """Pack all images below ``folder`` into ``output``; continues where a stopped run ended.

    Progress lies in ``<output>.part`` and ``<output>.journal``; ``output`` appears when it is
    complete. Files that cannot be decoded are left out and named.

    Raises:
        ImageError: the folder holds no usable image.
    """
    if output.suffix != ".luma":
        raise ImageError(f"a packed store is a .luma file, not {output.name}; name it x.luma")
    output.parent.mkdir(parents=True, exist_ok=True)
    part, journal = Path(f"{output}.part"), Path(f"{output}.journal")
    index, rejected = _resume(part, journal, folder)
    _rewrite(journal, folder, index, rejected)
    done = {name for name, _, _ in index} | set(rejected)
    paths = list_images(folder)
    with part.open("r+b" if index else "wb") as pixels, journal.open("a") as log:
        if not index:
            pixels.write(MAGIC)
        pixels.seek(len(MAGIC) + sum(h * w for _, h, w in index))
        pixels.truncate()
        for path in tqdm(paths, desc=f"packing {folder}", unit="image"):
            name = path.relative_to(folder).as_posix() if folder.is_dir() else path.name
            if name in done:
                continue
            try:
                read_header(path)  # refuses what a scan of the folder refuses
                luma = read_training_luma(path)
            except ImageError as error:
                rejected.append(name)
                log.write(json.dumps([name, 0, 0]) + "\n")
                tqdm.write(f"left out: {error}")
                continue
            pixels.write(luma.tobytes())
            pixels.flush()
            index.append((name, *luma.shape))
            log.write(json.dumps([name, *luma.shape]) + "\n")
            log.flush()
        if not index:
            raise ImageError(f"{folder} holds no image that can be decoded; nothing to pack")
        _write_footer(pixels, index)
    os.replace(part, output)
    journal.unlink()
    print(f"{output}: {len(index)} images packed, {len(rejected)} left out")


def _write_footer(file, index: list[tuple[str, int, int]]) -> None:  # type: ignore[no-untyped-def]
    text = json.dumps(index).encode()
    file.write(text + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + MAGIC)
    file.flush()
    os.fsync(file.fileno())


def _rewrite(
    journal: Path, folder: Path, index: list[tuple[str, int, int]], rejected: list[str]
) -> None:
    """Start the journal with what is kept: a torn last line must not be written on."""
    entries = [*index, *((name, 0, 0) for name in rejected)]
    lines = [str(folder.resolve()), *(json.dumps(entry) for entry in entries)]
    journal.write_text("\n".join(lines) + "\n")


def _resume(
    part: Path, journal: Path, folder: Path
) -> tuple[list[tuple[str, int, int]], list[str]]:
    """What an interrupted run has packed and left out; the journal names its folder."""
    here = str(folder.resolve())
    if part.is_file() and journal.is_file():
        lines = journal.read_text().splitlines()
        if lines and lines[0] == here:
            return _readable_entries(lines[1:], part.stat().st_size)
    return [], []


def _readable_entries(lines: list[str], size: int) -> tuple[list[tuple[str, int, int]], list[str]]:
    """Journal entries whose pixels are in the file; a torn last line is dropped."""
    index: list[tuple[str, int, int]] = []
    rejected = []
    end = len(MAGIC)
    for line in lines:
        try:
            name, height, width = json.loads(line)
        except ValueError:
            break
        end += height * width
        if end > size:
            break
        if height:
            index.append((name, height, width))
        else:
            rejected.append(name)
    return index, rejected


def _read_index(path: Path) -> list[tuple[str, int, int]]:
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
    index = [(name, height, width) for name, height, width in json.loads(text)]
    if len(MAGIC) + sum(h * w for _, h, w in index) + length + FOOTER != size:
        raise ImageError(broken)
    return index
