"""The training loop, to be read from top to bottom."""

import math
import time
from pathlib import Path

import torch

from lgmnet.config import Config, TrainingConfig
from lgmnet.runtime import Consensus, Runtime, StopSignal
from lgmnet.training.gradients import Terms
from lgmnet.training.log import RunLog
from lgmnet.training.saver import NonFiniteLoss, Saver
from lgmnet.training.schedule import progress, rate_factor
from lgmnet.training.setup import open_run


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
        ConfigError, ImageError, CheckpointError: a mistake that the user can correct.
        NonFiniteLoss: the run diverged.
    """
    run = open_run(config, folder, here, resume)
    at, learner, settings = run.at, run.learner, run.config.training
    stopped_by = 0
    done = 100 * progress(at, settings)
    with StopSignal() as stop, RunLog(folder, 100.0, done, here.is_main, at.step) as log:
        log.start(at.step, run.data, here, settings.precision)
        learner.note = log.note
        saver = Saver(folder, run.config, learner, run.data, here, log, stop)
        if run.state:
            saver.resume(at, run.state)
        clock, recent = Clock(here, at.elapsed), RecentSteps(settings, saver)
        while not stopped_by:
            if at.validation_is_due(settings.validate_every):
                recent.means(at.step)
                saver.validate_and_save(at)
                recent.begin()
                stopped_by = here.largest(stop.received)
            if stopped_by or progress(at, settings) >= 1:
                break
            rate = settings.rate * rate_factor(at, settings)
            with saver.rescue(at):
                terms = learner.derive(next(run.batches), at.step)
            terms["gradient_norm"] = learner.move(at.step, rate)
            at.step += 1
            recent.terms.append(terms)
            with saver.rescue(at):
                stopped_by, at.elapsed = clock(stop.received)
            if at.step % settings.log_every == 0:
                means, speed = recent.means(at.step), recent.speed()
                log.step(at, rate, speed, means, here, 100 * progress(at, settings))
            log.tick(at.step, 100 * progress(at, settings))
        recent.means(at.step)
        if not stopped_by:
            saver.finish(at)
            stopped_by = here.largest(stop.received)
        if stopped_by and not saver.finished:
            saver.save_state(at)
            log.say(f"stopped by signal {stopped_by} after step {at.step}; go on with --resume")
        log.end(at.step, run.crops.unreadable_names(), stopped_by)
    return stopped_by


class Clock:
    """Seconds of a run without the first step, which may compile for a long time."""

    def __init__(self, here: Runtime, elapsed: float) -> None:
        self._consensus, self._elapsed = Consensus(here, elapsed), elapsed
        self._began: float | None = None

    def __call__(self, signal: int) -> tuple[int, float]:
        """After each step: what the processes agree on, see `Consensus`."""
        now = time.perf_counter()
        if self._began is None:
            self._began = now - self._elapsed
        return self._consensus(signal, now - self._began)


class RecentSteps:
    """The terms of the steps since the last line of the log, still on the device."""

    def __init__(self, settings: TrainingConfig, saver: Saver) -> None:
        self.settings, self.saver = settings, saver
        self.terms: list[Terms] = []
        self._count = 0
        self.begin()

    def begin(self) -> None:
        """Count time from now on."""
        self._since = time.perf_counter()

    def speed(self) -> float:
        """Crops per second of the steps that `means` has read last."""
        since = self._since
        self.begin()
        return self._count * self.settings.batch_size / (self._since - since)

    def means(self, step: int) -> dict[str, float]:
        """Means of loss, terms and gradient norm since the last call. All losses are checked.

        Reading a loss waits for the device, so steps are checked together. All processes see the
        mean of their losses, so they stop together.

        Raises:
            NonFiniteLoss: a loss or gradient was not finite.
        """
        if not self.terms:
            return {}
        values = {
            name: self.saver.here.mean(torch.stack([terms[name] for terms in self.terms])).tolist()
            for name in self.terms[0]
        }
        self._count = len(self.terms)
        self.terms.clear()
        first = step - self._count + 1
        for k, (loss, norm) in enumerate(zip(values["loss"], values["gradient_norm"], strict=True)):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NonFiniteLoss(
                    f"step {first + k}: loss {loss}, gradient norm {norm}, on "
                    f"{self._samples(first + k)}; {self.saver.advice(first + k)}"
                )
        return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}

    def _samples(self, step: int) -> str:
        batch = self.settings.batch_size
        low = (step - 1) * batch
        return f"samples {low} to {low + batch - 1} of seed {self.settings.seed}"
