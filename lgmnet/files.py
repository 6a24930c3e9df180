"""Write files completely or not at all; hashes of files."""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Name of the temporary file of `write_whole`. A killed process leaves one behind.
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file with ``write``, then rename it to ``path``.

    So ``path`` is never incomplete, and an old file stays until the new one is complete. Missing
    folders are created. A link stays a link. A device or pipe is written directly, because it
    cannot be renamed. File and name are on the disk at the return, so they survive a loss of power.

    Raises:
        OSError, and what ``write`` raises: nothing is left behind, and ``path`` is as before.
            An OSError names ``path``, and the free space where the disk is full.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        write(path)
        return
    # A name has at most 255 bytes, and a letter up to four.
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}")
    try:
        with naming(path, temporary):
            temporary.touch(exist_ok=False)  # others may read it as the user's umask says
            mode = temporary.stat().st_mode
            write(temporary)
            temporary.chmod(mode)  # safetensors exchanges the file for one of its own
            _flush(temporary)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # on a disk that has become read-only
            temporary.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems cannot, and Windows opens no folder
        _flush(path.parent)


def write_arrays(path: Path, **arrays: Any) -> None:
    """`write_whole` for NumPy arrays by name, as a compressed .npz file."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # NumPy would add an ending to the name
            np.savez_compressed(file, **arrays)

    write_whole(path, write)


def write_figure(path: Path, figure: Any, dpi: int) -> None:
    """`write_whole` for a figure of matplotlib; the format follows the name."""
    form = path.suffix.removeprefix(".") or "png"
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=dpi, format=form))


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def naming(path: Path, *aliases: Path) -> Iterator[None]:
    """Let an OSError inside name ``path``, and the free space where the disk is full.

    Args:
        aliases: other names of the file. Errors of other files stay as they are.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, *map(str, aliases)):
            raise
        reason = error.strerror or str(error)
        if error.errno in DISK_FULL:
            reason += f", {free_space(path.parent)} free"
        raise OSError(error.errno, reason, str(path)) from None


def free_space(folder: Path) -> str:
    """Free space of the disk of a folder, as text: ``12.5 MB``."""
    return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB"


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes. Nobody else may write into the folder."""
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_whole` for UTF-8 text."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))
