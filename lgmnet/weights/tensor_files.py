"""Compare the content of a safetensors file with its metadata.

A file may come from an untrusted source. Its metadata are read as text. They are compared with the
names and shapes of the tensors before memory is allocated.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lgmnet.build import OPERATOR, shadow_model
from lgmnet.config import Config, ConfigError, config_from_dict
from lgmnet.models import SensingModel
from lgmnet.weights.files import CheckpointError

FORMAT = "lgmnet/1"
# Key of the metadata: hash of the rest of the file. Safetensors have none, and older files lack it.
CONTENT = "content_sha256"
# Largest number of modules and tensors per tensor of a file. Most networks have three.
PARTS_PER_TENSOR = 10


def read_metadata(path: Path, expected: str = FORMAT) -> dict[str, str]:
    """The metadata of a weights file.

    Raises:
        CheckpointError: the file is missing, damaged, or has another format.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(damaged(path, error)) from None
    found = metadata.get("format")
    if found != expected or "config" not in metadata:
        raise CheckpointError(
            f"{path} is not a weights file of lgmnet (format {found}, expected {expected}); import "
            "published weights with scripts/import_weights.py, and give adapters with --adapters "
            "in addition to their backbone"
        )
    return metadata


def read_config(metadata: Mapping[str, str], path: Path) -> Config:
    """The config in the metadata of a file.

    Raises:
        CheckpointError: the config is not valid.
    """
    try:
        tree = json.loads(metadata["config"])
        if not isinstance(tree, dict):
            raise ConfigError(f"it is a {type(tree).__name__}, expected keys and values")
        return config_from_dict(tree)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the config in {path} cannot be used: {error}") from None


def damaged(path: Path, error: Exception) -> str:
    return f"{path} is damaged or cut short ({type(error).__name__}: {str(error)[:200]})"


def content_sha256(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Hash of all other metadata, and of names, types, shapes and bytes of the tensors."""
    rest = {key: value for key, value in metadata.items() if key != CONTENT}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def with_content_hash(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The metadata with the hash of themselves and of the tensors added."""
    return {**metadata, CONTENT: content_sha256(metadata, tensors)}


def check_content(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a file has changed. Older files have no hash and pass."""
    expected = metadata.get(CONTENT)
    if expected and expected != content_sha256(metadata, tensors):
        raise CheckpointError(
            f"{path} is damaged, or was changed: its content has another hash than it says. "
            "Take it from where it was made, or make it again"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a weights file, in float32; masks stay boolean.

    Raises:
        CheckpointError: damaged, a tensor of another type, or one with NaN or infinity.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(damaged(path, error)) from None
    for key, tensor in tensors.items():
        is_mask = tensor.dtype == torch.bool and key.startswith(OPERATOR)
        if not (tensor.is_floating_point() or is_mask):
            raise CheckpointError(f"{key} in {path} has type {tensor.dtype}, expected a real type")
    check_content(path, metadata, tensors)
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{key} in {path} holds NaN or infinity; train or import again")
    return {k: v if v.dtype == torch.bool else v.float() for k, v in tensors.items()}


def read_shapes(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file without their values, on the meta device."""
    try:
        with safe_open(path, "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    except (SafetensorError, OSError, RuntimeError, OverflowError, TypeError) as error:
        raise CheckpointError(damaged(path, error)) from None


def check_shapes(config: Config, shapes: Mapping[str, Tensor], path: Path) -> SensingModel:
    """The model of a config without values, after a comparison with the tensors of its file.

    This needs little memory and time, even if the config describes a very large network.

    Raises:
        CheckpointError: Φ does not fit the ratio, or names or shapes differ.
    """
    try:
        model = shadow_model(config, shapes, PARTS_PER_TENSOR * (len(shapes) + 10))
    except ConfigError as error:
        raise CheckpointError(
            f"the {len(shapes)} tensors of {path} are not those that its config describes: {error}"
        ) from None
    check_tensors(model, shapes, str(path))
    return model


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load all tensors of a model.

    Raises:
        CheckpointError: names or shapes differ; the message names the tensor.
    """
    check_tensors(model, state, source)
    model.load_state_dict(dict(state))


def check_tensors(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError unless names and shapes are those of the model."""
    own = model.state_dict()
    for key, tensor in own.items():
        if key not in state:
            raise CheckpointError(f"{source} has no tensor {key} {tuple(tensor.shape)}")
        if state[key].shape != tensor.shape:
            raise CheckpointError(
                f"{key} in {source} has shape {tuple(state[key].shape)}, but the model needs "
                f"{tuple(tensor.shape)}; the weights belong to another network, ratio or block "
                "size"
            )
    extra = sorted(set(state) - set(own))
    if extra:
        raise CheckpointError(
            f"{source} contains {len(extra)} tensors that the model does not have, such as "
            f"{extra[0]}; the weights belong to another network"
        )
