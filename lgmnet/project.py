"""The folder of the weights and configs of the package, and its commit and versions."""

import platform
import subprocess
from pathlib import Path

import lgmnet

_PACKAGE = Path(__file__).resolve().parent
# In a clone they are beside the package; in a wheel they are inside it (see setup.py).
PROJECT = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent


def find_file(path: Path) -> Path:
    """``path`` if it is a file, else the file of the project, else ``path`` unchanged."""
    ours = PROJECT / path
    return ours if ours.is_file() and not path.is_file() else path


def checkpoint_roots() -> list[Path]:
    """Folders in which weights are searched by name: ``checkpoints/``, then the project's."""
    return [Path("checkpoints"), PROJECT / "checkpoints"]


def provenance() -> dict[str, str]:
    """Commit and versions, to trace a number to its code."""
    import torch  # only here: commands read this module for their --help

    return {
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def commit() -> str:
    """The commit of this clone; for an installed package, its version.

    Git gets the repository explicitly. Otherwise it would use that of a parent folder, or of
    GIT_DIR.
    """
    own = PROJECT / ".git"
    if not own.exists():
        return lgmnet.__version__
    git = ["git", f"--git-dir={own}", f"--work-tree={PROJECT}"]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
