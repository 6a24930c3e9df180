"""Tensors in the pickles of others."""

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from lgmnet.weights.files import CheckpointError


def load_foreign(path: Path) -> dict[str, Tensor]:
    """Tensors of somebody else's pickle, read without running anything it contains.

    They may lie one level down, beside other things, as in ``{"params": …}`` of BasicSR and
    ``{"state_dict": …, "epoch": …}`` of Lightning.

    Raises:
        CheckpointError: no file, damaged, or no single dict of tensors in it.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        require_stored(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors only ({type(error).__name__}); it is damaged, or a "
            "pickle that would run code, which is never loaded here"
        ) from None
    if _is_state(content):
        return _own_values(content, path)
    entries = content if isinstance(content, dict) else {}
    found = [key for key, value in entries.items() if value and _is_state(value)]
    if len(found) == 1:
        return _own_values(entries[found[0]], path)
    holds = ", ".join(map(str, entries)) or type(content).__name__
    several = f"; it has {len(found)} of them, save the one you mean by itself" if found else ""
    raise CheckpointError(f"{path} holds {holds}, expected a dict of tensors{several}")


def require_stored(path: Path) -> None:
    """Raise ValueError where a zip file has packed entries: torch.save packs none, and a few
    kilobytes could become many gigabytes."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        packed = [e.filename for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"its entry {packed[0]} is compressed, which torch.save never does")


def _own_values(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors, if each has as many values as it has elements: a repeated one has no end."""
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{name} in {path} repeats its values to {tuple(tensor.shape)}; save it after "
                ".contiguous()"
            )
    return tensors


def _is_state(content: object) -> bool:
    """Whether it is a dict of tensors by name."""
    return isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )
