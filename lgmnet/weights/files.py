"""Weights and state files: complete writing, errors, and the list of hashes."""

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from lgmnet.files import free_space, write_whole

# The file with the hashes of shipped weights, in the format of sha256sum, beside their folders.
SUMS = "SHA256SUMS"


class CheckpointError(ValueError):
    """A weights or state file that cannot be used; the message says why and what to do."""


def read_sums(path: Path) -> dict[str, str]:
    """File -> SHA-256, from a list of ``<hash>  <folder>/<file>``; empty if there is no list."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {file: digest for digest, file in (line.split(maxsplit=1) for line in lines if line)}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write_whole` with errors as CheckpointError.

    Raises:
        CheckpointError: the file cannot be written; an old file at ``path`` is unchanged.
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
