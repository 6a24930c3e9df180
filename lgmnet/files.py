"""Files written whole or not at all, and known by their hashes."""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What `write_whole` fills before it gives the file its name; a killed process leaves one behind.
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then give it its name: never half a file.

    What was at ``path`` stays until then. Folders that are missing are made. A link stays a link;
    a device or pipe, which takes no other name, is written itself. File and name are on the disk
    when this returns, so they survive a loss of power.

    Raises:
        OSError, and what ``write`` raises: nothing is left behind, and ``path`` is as before.
            An OSError names ``path``, and the free space where the disk is full.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        write(path)
        return
    # A name of 255 bytes has no room for more, and a letter takes up to four.
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}")
    try:
        temporary.touch(exist_ok=False)  # others may read it as the user's umask says
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise _about(path, temporary, error) from None
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems cannot, and Windows opens no folder
        _flush(path.parent)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _about(path: Path, temporary: Path, error: OSError) -> OSError:
    """An error of the temporary file as one of the file that was asked for."""
    if error.errno is None or error.filename not in (None, str(temporary)):
        return error
    reason = error.strerror or str(error)
    if error.errno in DISK_FULL:
        reason += f", {free_space(path.parent)} free"
    return OSError(error.errno, reason, str(path))


def free_space(folder: Path) -> str:
    """What may still be written below a folder, in words: ``12.5 MB``."""
    return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB"


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes. Nobody else may write into the folder."""
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_whole` for UTF-8 text."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))
