"""Set up a run before its first step: check the config, build the model, read the state."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgmnet.build import build_model, saved_operator, start_model
from lgmnet.config import Config, TrainingConfig
from lgmnet.data.crops import DeviceCrops, TrainingCrops
from lgmnet.files import remove_leftovers, write_text
from lgmnet.models import SensingModel
from lgmnet.runtime import Runtime
from lgmnet.training import states
from lgmnet.training.batches import open_batches
from lgmnet.training.checks import check_run, check_trainable
from lgmnet.training.images import TrainingData, check_fit, open_data
from lgmnet.training.learner import Learner
from lgmnet.training.saver import restore
from lgmnet.training.schedule import Position, progress
from lgmnet.weights import files, saved
from lgmnet.weights.adapters import adopt_backbone


@dataclass
class Run:
    """A run at one of its steps. ``state`` is the state to resume from; None for a new run."""

    config: Config
    folder: Path
    state: Mapping[str, Any] | None
    data: TrainingData
    learner: Learner
    at: Position
    crops: TrainingCrops | DeviceCrops
    batches: Iterator[Tensor]


def open_run(config: Config, folder: Path, here: Runtime, resume: bool) -> Run:
    """Prepare a run for its next step. The main process prepares its folder.

    Raises:
        ConfigError, ImageError, CheckpointError: a mistake that the user can correct.
    """
    check_run(config, here)
    state = states.load_training_state(folder / "last.pt", config) if resume else None
    config = states.resolve_precision(config, here, state)
    settings = config.training
    if state and is_finished(folder, state, settings):
        raise files.CheckpointError(
            f"the run in {folder} is finished (step {state['step']}); there is nothing to resume. "
            f"A longer one needs more training.epochs or training.minutes; python test.py {folder} "
            "scores this one"
        )
    torch.manual_seed(settings.seed)  # for the initial network; every step is seeded separately
    data = open_data(config)
    learner = Learner(first_model(config, data, state), config, here)
    check_fit(learner.model.operator, data.train, config.data)
    at = restore(state, learner) if state else Position()
    crops, batches = open_batches(config, data.train, here, at.step)
    if here.is_main:
        write_text(folder / "config.yaml", config.as_yaml())
        remove_leftovers(folder)
        if not state:  # a run that stopped before its first state may have left a log
            (folder / "log.jsonl").unlink(missing_ok=True)
    return Run(config, folder, state, data, learner, at, crops, batches)


def first_model(
    config: Config, data: TrainingData, state: Mapping[str, Any] | None
) -> SensingModel:
    """The initial model of a run. In a resumed run `restore` gives it the values of the state."""
    if state:
        return build_model(config, saved_operator(state["model"]))
    model = start_model(config, data.train)
    if config.training.start:
        settings = config.training
        saved.adopt_weights(model, settings.start, settings.start_phi, settings.grow)
    if config.lora:
        adopt_backbone(model, config.lora.backbone)
    model.operator.retract()
    check_trainable(model)
    return model


def is_finished(folder: Path, state: Mapping[str, Any], settings: TrainingConfig) -> bool:
    """Whether a run has made all its steps and written the weights of its last step."""
    over = progress(Position(state["step"], state["elapsed"]), settings) >= 1
    return over and states.finished_step(folder) == state["step"]
