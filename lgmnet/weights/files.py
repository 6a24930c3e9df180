"""Files written whole or not at all, and known by their hashes."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

# Beside the folders of shipped weights: their hashes, as sha256sum writes them.
SUMS = "SHA256SUMS"


class CheckpointError(ValueError):
    """A weights or state file that cannot be used; the message says why and what to do."""


def read_sums(path: Path) -> dict[str, str]:
    """SHA-256 of each file that a list of ``<hash>  <folder>/<file>`` names; nothing without it."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {file: digest for digest, file in (line.split(maxsplit=1) for line in lines if line)}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then give it its name: never half a file.

    Raises:
        CheckpointError: it cannot be written; what was at ``path`` is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise CheckpointError(f"cannot write {path} ({error}); choose another folder") from None
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        kept = "; the previous file is untouched" if path.exists() else ""
        raise CheckpointError(f"cannot write {path} ({error}){kept}; is the disk full?") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
