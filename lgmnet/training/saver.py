"""Files of a run in training: validation scores, weights, and the state to resume from."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lgmnet.build import at_condition
from lgmnet.config import Config
from lgmnet.data.datasets import TrainingImages, file_of
from lgmnet.evaluation.rebuild import validate
from lgmnet.metrics import Score, summarise
from lgmnet.models import SensingModel
from lgmnet.runtime import Runtime, StopSignal
from lgmnet.training import states
from lgmnet.training.images import TrainingData
from lgmnet.training.learner import Learner
from lgmnet.training.log import RunLog
from lgmnet.training.schedule import Position
from lgmnet.weights import files, saved, tensor_files
from lgmnet.weights.files import CheckpointError


class NonFiniteLoss(RuntimeError):
    """A loss or a weight is NaN or infinite; the message says where, and what was kept."""


class Stopped(Exception):
    """A signal came during validation."""


@dataclass
class Saver:
    """Validates and writes files in the main process. The others only take part in decisions."""

    folder: Path
    config: Config
    learner: Learner
    data: TrainingData
    here: Runtime
    log: RunLog
    stop: StopSignal
    kept: int = -1
    """Step of the state in the folder; -1 if there is none."""
    finished: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.training_sha256 = training_sha256(self.data.train)
        self.validation_sha256 = validation_sha256(self.data, self.config)

    @property
    def judged(self) -> SensingModel:
        """The validated weights: the average, if there is one."""
        average = self.learner.average
        return self.learner.model if average is None else average.model

    @property
    def path(self) -> Path:
        return self.folder / "last.pt"

    def resume(self, at: Position, state: Mapping[str, Any]) -> None:
        """Continue from a saved state. With other validation images the best starts again."""
        changed = states.changed_settings(state, self.config)
        self.log.resumed(at.step, changed + states.changed_code(state, self.log.provenance))
        self.kept = at.step
        if state.get("training_sha256", self.training_sha256) != self.training_sha256:
            self.log.note(
                at.step, "the training images are others now: the crops are not those of one run"
            )
        known = state.get("validation_sha256")
        if known and known != self.validation_sha256:
            at.best, at.validated = -math.inf, 0
            self._retire_best()
            self.log.note(at.step, "the validation images are others now: the best begins anew")

    def _retire_best(self) -> None:
        """Keep the weights that were best on other images, but under another name."""
        best = self.folder / "best.safetensors"
        if self.here.is_main and best.exists():
            best.replace(self.folder / "best_before.safetensors")

    def validate_and_save(self, at: Position) -> None:
        """Validate, keep the weights if they are the best so far, and save the state.

        If a signal comes during validation, the state records that the validation is not done.
        """
        self.require_finite(at)
        if self.here.is_main:
            self._judge(at)
        else:
            at.validated = at.step
        self.save_state(at)

    def finish(self, at: Position) -> None:
        """Make the last validation and write the final weights. ``last`` is the last file."""
        if at.validated != at.step:
            self.validate_and_save(at)
        if not self.here.is_main or at.validated != at.step:
            return
        if self.learner.average is not None:
            self._save_weights("ema", self.judged, at, None)
        self._save_weights("last", self.learner.model, at, None)
        self.finished = True
        self.log.say(f"finished after step {at.step}; the run is in {self.folder}")

    def save_state(self, at: Position) -> None:
        self.require_finite(at)
        if self.here.is_main:
            states.save_state(
                self.path,
                {
                    "config": json.dumps(self.config.as_dict()),
                    **self.learner.state_dict(),
                    "step": at.step,
                    "elapsed": at.elapsed,
                    "best": at.best,
                    "validated": at.validated,
                    "training_sha256": self.training_sha256,
                    "validation_sha256": self.validation_sha256,
                    "provenance": json.dumps(self.log.provenance),
                },
            )
        self.kept = at.step

    @contextmanager
    def rescue(self, at: Position) -> Iterator[None]:
        """If the block fails, save the state of the steps before, unless it is bad or saved."""
        try:
            yield
        except Exception:
            if at.step > max(self.kept, 0):
                try:
                    self.save_state(at)
                    self.log.say(f"the state of step {at.step} is in {self.path}")
                except (CheckpointError, NonFiniteLoss) as error:
                    self.log.say(f"the state of step {at.step} was not saved: {error}")
            raise

    def require_finite(self, at: Position) -> None:
        """Raise NonFiniteLoss instead of replacing good weights by weights with NaN or infinity."""
        ruined = saved.first_not_finite(self.learner.state_dict())
        if ruined:
            raise NonFiniteLoss(
                f"after step {at.step} {ruined} is not finite; {self.advice(at.step + 1)}"
            )

    def advice(self, step: int) -> str:
        """Which files are good if ``step`` is the first bad step, and what to do."""
        change = "lower training.rate or set training.clip"
        if self.kept < 0:
            return f"no state was saved yet: {change}, and start again"
        if step <= self.kept + 1:  # its loss is the first of the weights that the state holds
            return f"the weights in {self.path} are ruined already: {change}, and start again"
        return f"the last good state is {self.path}, of step {self.kept}: {change}, and resume"

    def _judge(self, at: Position) -> None:
        try:
            score = self._validate(at)
        except Stopped:
            self.log.say(f"step {at.step}: validation stopped by signal {self.stop.received}")
            return
        at.validated = at.step
        if score is not None and at.best < score.psnr < math.inf:
            at.best = score.psnr
            self._save_weights("best", self.judged, at, score)

    def _validate(self, at: Position) -> Score | None:
        """The mean score over the images and over all conditions; None without images."""
        images = self.data.validation
        if images is None:
            return None

        def show(k: int, image: object) -> None:
            if self.stop.received:
                raise Stopped
            if k < 4:
                self.log.image(at.step, f"validation/{images.names[k]}", image)  # type: ignore[arg-type]

        sampling, limit = self.config.sampling, self.config.data.validation_images
        scores = {
            condition: validate(
                at_condition(self.judged, sampling, condition), images, self.here, limit, show
            )
            for condition in sampling.conditions
        }
        score = summarise(list(scores.values()))
        each = {f"psnr_{c}": s.psnr for c, s in scores.items() if len(scores) > 1}
        if (picture := self.learner.model.operator.picture()) is not None:
            self.log.image(at.step, "phi", picture)
        self.log.record(
            at.step,
            "validation",
            {"psnr": score.psnr, "ssim": score.ssim, "minutes": at.elapsed / 60, **each},
        )
        self.log.say(f"step {at.step}: validation {score.psnr:.3f} dB, SSIM {score.ssim:.4f}")
        return score

    def _save_weights(
        self, name: str, model: SensingModel, at: Position, score: Score | None
    ) -> None:
        metrics = {"validation_psnr": score.psnr, "validation_ssim": score.ssim} if score else {}
        saved.save_weights(
            self.folder / f"{name}.safetensors",
            model,
            self.config,
            {
                "training_data": ", ".join(self.config.data.train),
                "training_images": str(len(self.data.train.names)),
                "step": str(at.step),
                "minutes": f"{at.elapsed / 60:.2f}",
                "metrics": json.dumps(metrics),
                **self.log.provenance,
            },
        )


def restore(state: Mapping[str, Any], learner: Learner) -> Position:
    """Restore a saved state; returns the progress of the run."""
    model, average, optimizer = learner.model, learner.average, learner.optimizer
    tensor_files.load_state(model, state["model"], "the saved state")
    if average is not None:
        if state["average"] is None:
            raise files.CheckpointError(
                "the saved state has no weight average; set training.ema=0 or start again"
            )
        average.load_state_dict(state["average"])
    decays = [group.get("weight_decay", 0) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state["optimizer"])
    except ValueError:
        raise files.CheckpointError(
            "the saved state groups the parameters differently; resume with the training.optimizer "
            "and training.phi_rate of the run folder's config.yaml"
        ) from None
    follow_layout(optimizer)
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay  # as the config says now, like the learning rate
    return Position(
        state["step"], state["elapsed"], state["best"], state.get("validated", state["step"])
    )


def follow_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer state of each parameter the memory format of the parameter.

    Fused optimizers read both in memory order and do not compare their strides.
    """
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def training_sha256(images: TrainingImages) -> str:
    """Hash of the names and sizes of the training images, in pixels and in bytes of the files."""
    digest = hashlib.sha256()
    for k, (name, size) in enumerate(zip(images.names, images.sizes, strict=True)):
        path = file_of(images, k)
        count = path.stat().st_size if path and path.exists() else 0
        digest.update(f"{name}\0{size}\0{count}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def validation_sha256(data: TrainingData, config: Config) -> str:
    """Hash of names and pixels of the validation images, on which "best" is chosen."""
    digest, images = hashlib.sha256(), data.validation
    for k in range(min(config.data.validation_images, len(images.names)) if images else 0):
        assert images is not None
        digest.update(f"{images.names[k]}\0{images.sizes[k]}\0".encode(errors="surrogateescape"))
        digest.update(np.asarray(images.read(k)).tobytes())
    return digest.hexdigest()
