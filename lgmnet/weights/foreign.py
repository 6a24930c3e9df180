"""Read tensors from weights files of other authors: pickles and MATLAB 7.3."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgmnet.arrays import require_small
from lgmnet.weights.files import CheckpointError


def load_foreign(path: Path) -> dict[str, Tensor]:
    """Read the tensors of another author's file. No code in the file is executed.

    The tensors may be one level down, beside other entries, as in ``{"params": …}`` of BasicSR and
    ``{"state_dict": …, "epoch": …}`` of Lightning. `load_matlab_layers` reads .mat files.

    Raises:
        CheckpointError: the file is missing or damaged, or does not contain exactly one dict of
            tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    if path.suffix == ".mat":
        return load_matlab_layers(path)
    try:
        require_stored(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors only ({type(error).__name__}); it is damaged, or a "
            "pickle that would execute code, which is never loaded here"
        ) from None
    if _is_state(content):
        return _own_values(content, path)
    entries = content if isinstance(content, dict) else {}
    found = [key for key, value in entries.items() if value and _is_state(value)]
    if len(found) == 1:
        return _own_values(entries[found[0]], path)
    holds = ", ".join(map(str, entries)) or type(content).__name__
    several = f"; it has {len(found)} of them, save one as a separate file" if found else ""
    raise CheckpointError(f"{path} contains {holds}, expected a dict of tensors{several}")


def require_stored(path: Path) -> None:
    """Raise ValueError if a zip file has compressed entries.

    torch.save compresses none, and a few kilobytes could become many gigabytes.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        packed = [e.filename for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"its entry {packed[0]} is compressed, which torch.save never does")


def _own_values(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors. A tensor that repeats its values is refused: it could be of any size."""
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{name} in {path} repeats its values to {tuple(tensor.shape)}; save it after "
                ".contiguous()"
            )
    return tensors


def load_matlab_layers(path: Path) -> dict[str, Tensor]:
    """Read the weights in the cell array ``net.layers`` of a MATLAB 7.3 file.

    Their names are ``{index}.{type}.{number}``: index and type of the layer, and number of the
    weights in the layer, both counted from 0. The axes are in the order of MATLAB.

    Raises:
        CheckpointError: h5py is missing, or the file is damaged or has no such array.
    """
    try:
        import h5py
    except ImportError:
        raise CheckpointError(
            f"{path} needs h5py: pip install -c constraints.txt -e '.[matlab]'"
        ) from None
    try:
        with h5py.File(path) as file:
            layers = [file[reference] for reference in file["net/layers"][()].ravel()]
            weights = {
                f"{k}.{_text(layer['type'])}.{n}": file[reference]
                for k, layer in enumerate(layers)
                if "weights" in layer
                for n, reference in enumerate(layer["weights"][()].ravel())
            }
            require_small(path, sum(v.size * v.dtype.itemsize for v in weights.values()))
            return {name: torch.from_numpy(v[()].T.copy()) for name, v in weights.items()}
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as layers of Deep ADMM-Net, a cell array net.layers in a "
            f"MATLAB 7.3 file ({type(error).__name__}: {error})"
        ) from None


def _text(characters: Any) -> str:
    """The text of a MATLAB string, which is stored as numbers."""
    return "".join(map(chr, characters[()].ravel()))


def _is_state(content: object) -> bool:
    """Whether it is a dict of tensors by name."""
    return isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )
