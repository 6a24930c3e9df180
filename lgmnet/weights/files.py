"""Files of weights and states: written whole, their errors, their list of hashes."""

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from lgmnet.files import free_space, write_whole

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


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then give it its name: never half a file.

    Raises:
        CheckpointError: it cannot be written; what was at ``path`` is still there.
    """
    try:
        write_whole(path, write)
    except (OSError, RuntimeError, SafetensorError) as error:
        kept = "; the previous file is untouched" if path.exists() else ""
        free = f", {free_space(path.parent)} free" if path.parent.is_dir() else ""
        raise CheckpointError(
            f"cannot write {path} ({_reason(error)}{free}){kept}; make room on the disk, or choose "
            "another folder"
        ) from None


def _reason(error: Exception) -> str:
    """The first line of an error, without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0]
