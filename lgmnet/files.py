"""Write files completely or not at all; hashes of files."""

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
    """Write a temporary file with ``write``, then rename it to ``path``.

    So ``path`` is never incomplete, and an old file stays until the new one is complete. Missing
    folders are created. A link stays a link. A device or pipe is written directly, because it
    cannot be renamed.

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
