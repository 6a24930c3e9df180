"""Files written whole or not at all, and known by their hashes."""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then give it its name: never half a file.

    What was at ``path`` stays until then. Folders that are missing are made. A link stays a link;
    a device or pipe, which takes no other name, is written itself.

    Raises:
        OSError, and what ``write`` raises: nothing is left behind, and ``path`` is as before.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        write(path)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.touch(exist_ok=False)  # others may read it as the user's umask says
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_whole` for UTF-8 text."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))
