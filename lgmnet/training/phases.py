"""A run has one phase. A run of LoRun has two: the backbone, then its adapters."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch

from lgmnet.build import build_network
from lgmnet.config import Config, ConfigError, LoraConfig, TrainingConfig
from lgmnet.models import LoRun
from lgmnet.runtime import Runtime
from lgmnet.training.loop import train
from lgmnet.training.setup import is_finished
from lgmnet.training.states import finished_step, load_training_state
from lgmnet.weights.adapters import save_adapters
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.saved import BACKBONE, Weights, find_weights

# Seeds are below SEEDS. The seed of the second phase is that of the first plus SEED_OFFSET.
SEEDS, SEED_OFFSET = 2**22, 2**21


class Phase(NamedTuple):
    """One ordinary run: its config and its folder."""

    config: Config
    folder: Path


def phases(config: Config, folder: Path) -> list[Phase]:
    """The phases of a run in order. The folder of the last one is ``folder`` itself.

    A LoRun with adapters has two phases; the backbone is in ``folder/backbone``. With
    ``lora.backbone`` it has only the phase of the adapters. The config of each phase, written into
    its folder, gives the same phase again.

    Raises:
        ConfigError: a setting does not fit the network.
    """
    with torch.device("meta"):
        network = build_network(config, config.sampling.sizes())
    if not isinstance(network, LoRun):
        if config.lora is not None:
            raise ConfigError(f"lora is for the network lorun, but model is {config.model.name}")
        return [Phase(config, folder)]
    if network.sharing != "lora":
        if config.lora is not None and config.lora.backbone:
            raise ConfigError(
                f"lora.backbone is {config.lora.backbone}, but a network with model.sharing = "
                f"{network.sharing} has no adapters; set model.sharing=lora, or start from those "
                "weights with training.start"
            )
        return [Phase(dataclasses.replace(config, lora=None), folder)]
    lora = config.lora or LoraConfig()
    if lora.backbone and config.training.start:
        raise ConfigError(
            f"training.start is {config.training.start} and lora.backbone is {lora.backbone}; a "
            "LoRun starts from one of them: leave the other empty"
        )
    if lora.backbone:
        return [Phase(_adapter_config(config, lora), folder)]
    backbone = folder / BACKBONE
    named = dataclasses.replace(lora, backbone=str(backbone))
    # The adapters see other crops than the backbone, and than the backbone of a run with seed + 1.
    seed = (config.training.seed + SEED_OFFSET) % SEEDS
    second = dataclasses.replace(config.training, seed=seed, start="")
    second_config = _adapter_config(dataclasses.replace(config, training=second), named)
    return [Phase(_backbone_config(config, lora), backbone), Phase(second_config, folder)]


def train_phases(config: Config, folder: Path, here: Runtime, resume: bool = False) -> int:
    """Train all phases of a run; see `lgmnet.training.loop.train`.

    A LoRun also writes adapters.safetensors, the adapters of the weights that are scored.

    Args:
        resume: continue the phase in which the run was stopped.
    """
    every = phases(config, folder)
    adapters = folder / "adapters.safetensors" if every[-1].config.lora else None
    for phase in every:
        first = phase.folder != folder
        if resume:
            over = _backbone_is_done(phase) if first else _adapters_are_missing(phase, adapters)
            if here.agree(float(over)):  # the main process decides
                continue
        begun = len(every) == 1 or first or (folder / "last.pt").exists()
        stopped_by = train(phase.config, phase.folder, here, resume and begun)
        if stopped_by:
            return stopped_by
        here.agree(0.0)  # wait until the main process has written the weights
    weights = find_weights(folder)
    if here.is_main and adapters and isinstance(weights, Weights):
        save_adapters(adapters, weights)
    return 0


def _backbone_is_done(phase: Phase) -> bool:
    """Whether the first phase is finished.

    Raises:
        CheckpointError: it is finished, but the config has another length.
    """
    if finished_step(phase.folder) < 0:
        return False
    was, now = Weights(phase.folder / "last.safetensors").config.training, phase.config.training
    if (was.steps, was.minutes) != (now.steps, now.minutes):
        raise CheckpointError(
            f"the backbone in {phase.folder} is finished, after {was.steps} steps or "
            f"{was.minutes:g} minutes; the config asks for {now.steps} or {now.minutes:g}. Resume "
            "with the old length, or start in another folder"
        )
    return True


def _adapters_are_missing(phase: Phase, adapters: Path | None) -> bool:
    """Whether the last phase is finished except for the adapters file."""
    final, state = phase.folder / "last.safetensors", phase.folder / "last.pt"
    if adapters is None or not (final.exists() and state.exists()):
        return False
    if adapters.exists() and adapters.stat().st_mtime >= final.stat().st_mtime:
        return False
    return is_finished(
        phase.folder, load_training_state(state, phase.config), phase.config.training
    )


def _backbone_config(config: Config, lora: LoraConfig) -> Config:
    options = {**config.model.options, "sharing": lora.backbone_sharing}
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, options=options),
        training=_shorten(config.training, 1 - lora.share),
        lora=None,
    )


def _adapter_config(config: Config, lora: LoraConfig) -> Config:
    training = _shorten(config.training, lora.share)
    training = dataclasses.replace(training, rate=lora.rate or training.rate)
    return dataclasses.replace(
        config, training=training, lora=dataclasses.replace(lora, share=1.0, rate=0.0)
    )


def _shorten(settings: TrainingConfig, share: float) -> TrainingConfig:
    """A share of a run: epochs are shorter, so milestones keep their relative place."""
    return dataclasses.replace(
        settings,
        steps_per_epoch=max(1, round(settings.steps_per_epoch * share)),
        minutes=settings.minutes * share,
    )
