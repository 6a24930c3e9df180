"""Backbones and adapters of LoRun as files.

An adapters file contains the additions to a backbone for one ratio or task: the adapters, ρ and λ
of every stage, and Φ. It contains the hash of its backbone and fits only this backbone.
"""

import dataclasses
from pathlib import Path

from safetensors.torch import save_file

from lgmnet.build import at_condition, build_model, saved_operator
from lgmnet.config import Config
from lgmnet.models import LoRun, SensingModel
from lgmnet.registry import require_choice
from lgmnet.unfolding.low_rank import module_fingerprint
from lgmnet.weights.files import CheckpointError, write_atomically
from lgmnet.weights.loadable import Loadable
from lgmnet.weights.saved import Weights, adopt_matrix, find_weights, save_weights
from lgmnet.weights.tensor_files import (
    check_shapes,
    load_state,
    read_config,
    read_metadata,
    read_shapes,
    read_tensors,
    with_content_hash,
)

FORMAT = "lgmnet-adapters/1"
BACKBONE = "network.backbone."
MERGE = ("on_the_fly", "per_stage")
# Metadata that every weights file writes itself.
OWN = ("format", "config", "phi_sha256", "backbone_sha256")


def adopt_backbone(model: SensingModel, name: str | Path) -> None:
    """Copy the denoiser, ρ and λ of trained weights to a new LoRun; also Φ, if the shape is equal.

    Raises:
        CheckpointError: there are no such weights, or they have another denoiser.
    """
    trained = find_weights(name).load()
    try:
        _lorun(model).adopt(_lorun(trained))
    except ValueError as error:
        raise CheckpointError(f"lora.backbone {name}: {error}") from None
    adopt_matrix(model, trained)


def save_adapters(path: Path, weights: Weights) -> None:
    """Write the adapters of trained weights to a separate file."""
    model = weights.load()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(BACKBONE)}
    metadata = {
        **weights.metadata,
        "format": FORMAT,
        "backbone_sha256": _backbone_hash(model),
    }
    metadata = with_content_hash(metadata, state)
    write_atomically(path, lambda temporary: save_file(state, temporary, metadata))


class Adapted:
    """Weights from a backbone and an adapters file, with the interface of `Weights`.

    Args:
        backbone: weights with the backbone, from the first phase or from any LoRun that adapts it.
        path: the adapters file.
        merge: ``on_the_fly`` computes the weights of a stage when the stage runs, and needs the
            memory of one denoiser. ``per_stage`` computes the weights of all stages once; then
            speed and memory are those of a network with one denoiser per stage.

    Raises:
        CheckpointError: the file is not an adapters file, or belongs to another backbone.
    """

    def __init__(self, backbone: Loadable, path: Path, merge: str = "on_the_fly") -> None:
        require_choice("merge", merge, MERGE)
        self.path = path
        self.metadata = read_metadata(path, FORMAT)
        self.config: Config = read_config(self.metadata, path)
        self.name = f"{backbone.name}_{path.absolute().parent.name}"
        self._merge = merge == "per_stage"
        self._backbone = backbone.load()
        if _backbone_hash(self._backbone) != self.metadata.get("backbone_sha256"):
            raise CheckpointError(
                f"{path} was trained on another backbone than that of {backbone.name}; adapters "
                "fit only the backbone of their run"
            )

    def load(self, condition: str | None = None) -> SensingModel:
        """The model in float32, on the CPU, in evaluation mode; see `Weights.load`."""
        own = self._backbone.state_dict().items()
        shared = {k: v for k, v in own if k.startswith(BACKBONE)}
        check_shapes(self.config, read_shapes(self.path) | shared, self.path)
        state = read_tensors(self.path)
        model = build_model(self.config, saved_operator(state))
        load_state(model, state | shared, str(self.path))
        if self._merge:
            model.network = _lorun(model).merged()
        return at_condition(model.eval(), self.config.sampling, condition)

    def save(self, path: Path) -> None:
        """Write one weights file that contains both."""
        config = self.config
        if self._merge:
            options = {**config.model.options, "sharing": "independent"}
            changed = dataclasses.replace(config.model, options=options)
            config = dataclasses.replace(config, model=changed, lora=None)
        metadata = {k: v for k, v in self.metadata.items() if k not in OWN}
        save_weights(path, self.load(), config, metadata)


def load_adapted(
    backbone: str | Path, adapters: str | Path, merge: str = "on_the_fly"
) -> SensingModel:
    """A LoRun from a backbone (name, folder or file) and an adapters file; see `Adapted`."""
    return Adapted(find_weights(backbone), Path(adapters), merge).load()


def _lorun(model: SensingModel) -> LoRun:
    if not isinstance(model.network, LoRun):
        raise CheckpointError(f"{type(model.network).__name__} has no backbone; use a LoRun")
    return model.network


def _backbone_hash(model: SensingModel) -> str:
    backbone = _lorun(model).backbone
    if backbone is None:
        raise CheckpointError("these weights have one denoiser per stage, but no backbone")
    return module_fingerprint(backbone)
