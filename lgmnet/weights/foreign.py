"""Tensors in the pickles of others."""

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
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors only ({type(error).__name__}); it is damaged, or a "
            "pickle that would run code, which is never loaded here"
        ) from None
    if _is_state(content):
        return content
    entries = content if isinstance(content, dict) else {}
    found = [key for key, value in entries.items() if value and _is_state(value)]
    if len(found) == 1:
        return entries[found[0]]
    holds = ", ".join(map(str, entries)) or type(content).__name__
    several = f"; it has {len(found)} of them, save the one you mean by itself" if found else ""
    raise CheckpointError(f"{path} holds {holds}, expected a dict of tensors{several}")


def _is_state(content: object) -> bool:
    """Whether it is a dict of tensors by name."""
    return isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )
