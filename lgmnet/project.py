"""Where the files are that come with the package, and of which commit and versions it is."""

import platform
import subprocess
from pathlib import Path

import torch

import lgmnet

_PACKAGE = Path(__file__).resolve().parent
# They stand beside the package in a clone; a wheel has them within (see setup.py).
PROJECT = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent


def find_file(path: Path) -> Path:
    """``path`` as seen from here, else that of the project, else as it was given."""
    ours = PROJECT / path
    return ours if ours.is_file() and not path.is_file() else path


def provenance() -> dict[str, str]:
    """Commit and versions, so that a number can be traced."""
    return {
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def commit() -> str:
    """Of the clone that runs; the version of a package that is installed in whatever place.

    Git is told which repository: by itself it takes that of a folder above, or of a variable.
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
