"""Where the files are that come with the package: ``checkpoints/`` and ``configs/``."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# They stand beside the package in a clone; a wheel has them within (see setup.py).
PROJECT = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent


def find_file(path: Path) -> Path:
    """``path`` as seen from here, else that of the project, else as it was given."""
    ours = PROJECT / path
    return ours if ours.is_file() and not path.is_file() else path
