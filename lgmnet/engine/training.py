"""The training loop, to be read from top to bottom."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lgmnet.config import Config, ConfigError, TrainingConfig
from lgmnet.data.crops import CropRule, DeviceCrops, Plan, TrainingCrops, loaded_batches
from lgmnet.data.datasets import TrainingImages
from lgmnet.engine import checkpoint, runtime
from lgmnet.engine.building import TrainingData, build_model, check_patch, initial_matrix, open_data
from lgmnet.engine.ema import WeightAverage
from lgmnet.engine.evaluation import validate
from lgmnet.engine.log import RunLog, phi_tiles, provenance
from lgmnet.engine.runtime import Runtime, StopSignal
from lgmnet.losses import total_loss
from lgmnet.metrics import Score
from lgmnet.models import SensingModel

# onecycle starts at this share of the largest rate (torch.optim.lr_scheduler.OneCycleLR).
ONECYCLE_START = 1 / 25


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite; the message says where, and what was kept."""


@dataclass
class Position:
    """How far a run is: steps done, seconds spent, best validation PSNR."""

    step: int = 0
    elapsed: float = 0.0
    best: float = -math.inf


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
    check_patch(config)
    settings = config.training
    if settings.batch_size % (here.processes * settings.accumulate):
        raise ConfigError(
            f"training.batch_size {settings.batch_size} is not a multiple of "
            f"{here.processes} processes x {settings.accumulate} parts"
        )
    runtime.seed_everything(settings.seed + here.rank)
    data = open_data(config)
    at = Position()
    state = checkpoint.load_training_state(folder / "last.pt", config) if resume else None
    start = initial_matrix(config.sampling, None if state else data.train, settings.seed)
    model = build_model(config, start).to(here.device).train()
    average = WeightAverage(model, settings.ema) if settings.ema else None
    optimizer = make_optimizer(model, settings)
    if state:
        at = restore(state, model, average, optimizer)
    wrapped = prepare(model, settings, here)
    batches = open_batches(config, data.train, here, at.step)

    if here.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
    log = RunLog(folder, 100.0, 100 * progress(at, settings), here.is_main)
    log.record(
        at.step,
        "start",
        {
            **provenance(),
            "images": len(data.train.names),
            "left_out": len(data.rejected),
            "device": str(here.device),
        },
    )
    log.say(f"training on {len(data.train.names)} images; {len(data.rejected)} left out")
    saver = Saver(folder, config, model, average, optimizer, data, here, log)
    pending: list[tuple[Tensor, Tensor]] = []
    clock = logged = time.perf_counter()
    with StopSignal() as stop:
        while here.agree(progress(at, settings)) < 1:
            rate = settings.rate * rate_factor(at, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate

            optimizer.zero_grad(set_to_none=True)
            loss = backward(wrapped, model, next(batches), settings, here)
            limit = settings.clip or math.inf
            norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
            at.step += 1
            if average is not None:
                average.update(model, at.step)
            pending.append((loss, norm))
            now = time.perf_counter()
            at.elapsed, clock = at.elapsed + now - clock, now

            if at.step % settings.log_every == 0:
                loss_mean, norm_mean = drain(pending, at.step, config, folder, here)
                now = time.perf_counter()
                speed = settings.log_every * settings.batch_size / (now - logged)
                logged = now
                log.record(
                    at.step,
                    "train",
                    {
                        "loss": loss_mean,
                        "rate": rate,
                        "gradient_norm": norm_mean,
                        "images_per_second": speed,
                        "memory_mib": here.peak_memory(),
                        "minutes": at.elapsed / 60,
                    },
                )
                line = f"step {at.step}  loss {loss_mean:.3e}  {speed:.0f} images/s"
                log.progress(100 * progress(at, settings), line)
                if here.any_process(bool(stop.received)):
                    break
            elif here.processes == 1 and stop.received:
                break
            if settings.validate_every and at.step % settings.validate_every == 0:
                drain(pending, at.step, config, folder, here)
                saver.validate_and_save(at)

        drain(pending, at.step, config, folder, here)
        if here.any_process(bool(stop.received)):
            saver.save_state(at)
            log.say(f"stopped by a signal after step {at.step}; continue with --resume")
        else:
            saver.finish(at)
    log.close()
    return stop.received


def progress(at: Position, settings: TrainingConfig) -> float:
    """Share of the run that is done, by time if it has a budget, else by steps."""
    if settings.minutes:
        return at.elapsed / (60 * settings.minutes)
    return at.step / settings.steps


def rate_factor(at: Position, settings: TrainingConfig) -> float:
    """Learning rate relative to ``training.rate``, for the step that comes next."""
    done, warmup = min(progress(at, settings), 1.0), settings.warmup
    if settings.schedule == "multistep":
        epoch = at.step // settings.steps_per_epoch
        return 0.1 ** sum(epoch >= milestone for milestone in settings.milestones)
    if settings.schedule == "constant":
        return 1.0
    if done >= warmup:
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
    if settings.schedule == "cosine":
        # Never zero: the first step must move.
        return max(done / warmup, 1e-3)
    rise = 0.5 * (1 - math.cos(math.pi * done / warmup))
    return ONECYCLE_START + (1 - ONECYCLE_START) * rise


def make_optimizer(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(
        model.parameters(), lr=settings.rate, weight_decay=settings.weight_decay, fused=True
    )


def prepare(model: SensingModel, settings: TrainingConfig, here: Runtime) -> nn.Module:
    """Apply memory format, recomputation, compilation and DDP from outside, in this order."""
    if settings.channels_last:
        runtime.use_channels_last(model.network)
    if settings.recompute:
        runtime.recompute_stages(model.network)
    if settings.compile:
        model.network.compile()
    if here.processes == 1:
        return model
    devices = [here.device] if here.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


def crop_rule(config: Config) -> CropRule:
    settings, data = config.training, config.data
    return CropRule(data.patch_size, settings.seed, data.augment, settings.batch_size)


def open_batches(
    config: Config, images: TrainingImages, here: Runtime, step: int
) -> Iterator[Tensor]:
    """uint8 batches of this process from ``step`` on, without end."""
    rule = crop_rule(config)
    plan = Plan(step, config.training.batch_size, here.rank, here.processes)
    if config.data.source == "device":
        return DeviceCrops(images, here.device).batches(rule, plan)
    crops = TrainingCrops(images, rule)
    return loaded_batches(crops, plan, config.data.workers, here.device)


def backward(
    wrapped: nn.Module, model: SensingModel, batch: Tensor, settings: TrainingConfig, here: Runtime
) -> Tensor:
    """Gradients of one batch ``(b, 1, size, size)`` uint8, in parts; its mean loss."""
    total = torch.zeros((), device=here.device)
    parts = batch.chunk(settings.accumulate)
    for k, part in enumerate(parts):
        target = part.float() / 255
        # Processes exchange gradients once per batch, with its last part.
        silent = isinstance(wrapped, DistributedDataParallel) and k + 1 < len(parts)
        with wrapped.no_sync() if silent else nullcontext():  # type: ignore[operator]
            with runtime.autocast(here.device, settings.precision):
                reconstruction = wrapped(target)
            loss, _ = total_loss(
                reconstruction,
                target,
                model.operator,
                settings.loss,
                settings.measurement_weight,
                settings.orthogonality_weight,
            )
            (loss / len(parts)).backward()
        total += loss.detach() / len(parts)
    return total


def drain(
    pending: list[tuple[Tensor, Tensor]], step: int, config: Config, folder: Path, here: Runtime
) -> tuple[float, float]:
    """Mean loss and gradient norm of the steps since the last call, which are checked here.

    Reading a loss waits for the device, so steps are checked together. All processes see the
    mean of their losses, so they stop together.

    Raises:
        NonFiniteLoss: one of them was not finite.
    """
    if not pending:
        return math.nan, math.nan
    losses = here.mean(torch.stack([loss for loss, _ in pending])).tolist()
    norms = torch.stack([norm for _, norm in pending]).tolist()
    first = step - len(pending)
    pending.clear()
    for k, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            batch = config.training.batch_size
            low = (first + k) * batch
            kept = folder / "last.pt"
            state = f"the last good state is {kept}" if kept.exists() else "no state was saved yet"
            raise NonFiniteLoss(
                f"step {first + k + 1}: loss {loss}, gradient norm {norm}, on samples {low} to "
                f"{low + batch - 1} of seed {config.training.seed}; {state}. Lower training.rate "
                "or set training.clip, and resume"
            )
    return sum(losses) / len(losses), sum(norms) / len(norms)


def restore(
    state: dict,
    model: SensingModel,
    average: WeightAverage | None,
    optimizer: torch.optim.Optimizer,
) -> Position:
    """Put a saved state back; returns where the run stood."""
    checkpoint.load_state(model, state["model"], "the saved state")
    if average is not None:
        if state["average"] is None:
            raise checkpoint.CheckpointError(
                "the saved state has no weight average; set training.ema=0 or start again"
            )
        average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    runtime.restore_random_state(state["random"])
    return Position(state["step"], state["elapsed"], state["best"])


@dataclass
class Saver:
    """Validates and writes files for the main process; the others do nothing."""

    folder: Path
    config: Config
    model: SensingModel
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    data: TrainingData
    here: Runtime
    log: RunLog

    @property
    def judged(self) -> SensingModel:
        """The weights that are validated: the average, where there is one."""
        return self.model if self.average is None else self.average.model  # type: ignore[return-value]

    def validate_and_save(self, at: Position) -> None:
        if self.here.is_main:
            score = self._validate(at)
            self.save_state(at)
            if score is not None and score.psnr > at.best:
                at.best = score.psnr
                self._save_weights("best", self.judged, at, score)

    def finish(self, at: Position) -> None:
        """Last validation, and the final weights beside the best."""
        if self.here.is_main:
            self.validate_and_save(at)
            self._save_weights("last", self.model, at, None)
            if self.average is not None:
                self._save_weights("ema", self.judged, at, None)
            self.log.say(f"finished after step {at.step}; the run is in {self.folder}")

    def save_state(self, at: Position) -> None:
        if self.here.is_main:
            checkpoint.save_state(
                self.folder / "last.pt",
                {
                    "config": json.dumps(self.config.as_dict()),
                    "model": self.model.state_dict(),
                    "average": self.average.state_dict() if self.average else None,
                    "optimizer": self.optimizer.state_dict(),
                    "random": runtime.random_state(),
                    "step": at.step,
                    "elapsed": at.elapsed,
                    "best": at.best,
                },
            )

    def _validate(self, at: Position) -> Score | None:
        images = self.data.validation
        if images is None:
            return None

        def show(k: int, image: object) -> None:
            if k < 4:
                self.log.image(at.step, f"validation/{images.names[k]}", image)  # type: ignore[arg-type]

        score = validate(self.judged, images, self.here, self.config.data.validation_images, show)
        self.log.image(at.step, "phi", phi_tiles(self.model.operator))  # type: ignore[arg-type]
        self.log.record(
            at.step,
            "validation",
            {"psnr": score.psnr, "ssim": score.ssim, "minutes": at.elapsed / 60},
        )
        self.log.say(f"step {at.step}: validation {score.psnr:.3f} dB, SSIM {score.ssim:.4f}")
        return score

    def _save_weights(
        self, name: str, model: SensingModel, at: Position, score: Score | None
    ) -> None:
        metrics = {"validation_psnr": score.psnr, "validation_ssim": score.ssim} if score else {}
        checkpoint.save_weights(
            self.folder / f"{name}.safetensors",
            model,
            self.config,
            {
                "training_data": ", ".join(self.config.data.train),
                "training_images": str(len(self.data.train.names)),
                "step": str(at.step),
                "minutes": f"{at.elapsed / 60:.2f}",
                "metrics": json.dumps(metrics),
                **provenance(),
            },
        )
