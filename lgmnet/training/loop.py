"""The training loop, to be read from top to bottom."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lgmnet.build import build_model, start_model
from lgmnet.config import Config, TrainingConfig
from lgmnet.models import SensingModel
from lgmnet.runtime import Consensus, Runtime, StopSignal
from lgmnet.speed.precision import precision_note
from lgmnet.training import states
from lgmnet.training.batches import open_batches
from lgmnet.training.checks import check_run, check_trainable
from lgmnet.training.gradients import Terms
from lgmnet.training.images import TrainingData, open_data
from lgmnet.training.learner import Learner
from lgmnet.training.log import RunLog
from lgmnet.training.saver import NonFiniteLoss, Saver, restore
from lgmnet.training.schedule import Position, progress, rate_factor
from lgmnet.weights import files, saved
from lgmnet.weights.adapters import adopt_backbone


def train(config: Config, folder: Path, here: Runtime, resume: bool = False) -> int:
    """Train one network into a run folder, until its schedule ends or a signal comes.

    Writes config.yaml, log.jsonl, tensorboard/, last.pt (the state to resume from),
    best.safetensors (best on the validation images), last.safetensors and, with EMA,
    ema.safetensors.

    Args:
        resume: continue from last.pt; on a CPU exactly as if the run had not been stopped.

    Returns:
        0, or the number of the signal that ended the run early.

    Raises:
        ConfigError, ImageError, CheckpointError: something the user can mend.
        NonFiniteLoss: the run diverged.
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
    torch.manual_seed(settings.seed)  # the start of the network; steps are seeded one by one
    data = open_data(config)
    learner = Learner(first_model(config, data, state), config, here)
    at = restore(state, learner) if state else Position()
    crops, batches = open_batches(config, data.train, here, at.step)

    if here.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
        if not state:  # what stopped before its first state left a log without one
            (folder / "log.jsonl").unlink(missing_ok=True)
    pending: list[Terms] = []
    stopped_by = 0
    done = 100 * progress(at, settings)
    with StopSignal() as stop, RunLog(folder, 100.0, done, here.is_main, at.step) as log:
        log.start(at.step, data, here, settings.precision)
        if note := precision_note(settings.precision, here.device):
            log.note(at.step, note)
        saver = Saver(folder, config, learner, data, here, log, stop)
        if state:
            log.resumed(at.step, states.changed_settings(state, config))
            saver.resume(at, state)
        learner.note = log.note
        consensus = Consensus(here, at.elapsed)
        began, logged = None, time.perf_counter()
        while not stopped_by:
            if at.validation_is_due(settings.validate_every):
                drain(pending, at.step, settings, saver)
                saver.validate_and_save(at)
                logged = time.perf_counter()
                stopped_by = here.largest(stop.received)
            if stopped_by or progress(at, settings) >= 1:
                break
            rate = settings.rate * rate_factor(at, settings)
            try:
                terms = learner.derive(next(batches), at.step)
            except Exception:
                saver.rescue(at)
                raise
            terms["gradient_norm"] = learner.move(at.step, rate)
            at.step += 1
            pending.append(terms)
            now = time.perf_counter()
            if began is None:  # the first step compiles, and would take much of training.minutes
                began = now - at.elapsed
            stopped_by, at.elapsed = consensus(stop.received, now - began)

            if at.step % settings.log_every == 0:
                count = len(pending)
                means = drain(pending, at.step, settings, saver)
                now = time.perf_counter()
                speed, logged = count * settings.batch_size / (now - logged), now
                log.step(at, rate, speed, means, here)
                line = f"step {at.step}  loss {means['loss']:.3e}  {speed:.0f} images/s"
                log.progress(100 * progress(at, settings), line)

        drain(pending, at.step, settings, saver)
        if not stopped_by:
            saver.finish(at)
            stopped_by = here.largest(stop.received)
        if stopped_by and not saver.finished:
            saver.save_state(at)
            log.say(f"stopped by signal {stopped_by} after step {at.step}; go on with --resume")
        log.end(at.step, crops.unreadable_names(), stopped_by)
    return stopped_by


def first_model(
    config: Config, data: TrainingData, state: Mapping[str, Any] | None
) -> SensingModel:
    """The model that a run begins or goes on with; `restore` gives it the values of a state."""
    if state:
        return build_model(config, state["model"]["operator.matrix"])
    model = start_model(config, data.train)
    if config.training.start:
        saved.adopt_weights(model, config.training.start, config.training.start_phi)
    if config.lora:
        adopt_backbone(model, config.lora.backbone)
    check_trainable(model)
    return model


def is_finished(folder: Path, state: Mapping[str, Any], settings: TrainingConfig) -> bool:
    """Whether a run has made all its steps, and written the final weights of the last one."""
    over = progress(Position(state["step"], state["elapsed"]), settings) >= 1
    return over and states.finished_step(folder) == state["step"]


def drain(
    pending: list[Terms], step: int, settings: TrainingConfig, saver: Saver
) -> dict[str, float]:
    """Means of the loss, its terms and the gradient norm since the last call, which are checked.

    Reading a loss waits for the device, so steps are checked together. All processes see the
    mean of their losses, so they stop together.

    Raises:
        NonFiniteLoss: a loss or gradient was not finite.
    """
    if not pending:
        return {}
    values = {
        name: saver.here.mean(torch.stack([terms[name] for terms in pending])).tolist()
        for name in pending[0]
    }
    first = step - len(pending)
    pending.clear()
    for k, (loss, norm) in enumerate(zip(values["loss"], values["gradient_norm"], strict=True)):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            batch = settings.batch_size
            low = (first + k) * batch
            raise NonFiniteLoss(
                f"step {first + k + 1}: loss {loss}, gradient norm {norm}, on samples {low} to "
                f"{low + batch - 1} of seed {settings.seed}; {saver.advice(first + k + 1)}"
            )
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}
