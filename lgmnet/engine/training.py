"""The training loop, to be read from top to bottom."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lgmnet.config import Config, ConfigError, TrainingConfig
from lgmnet.data.crops import CropRule, DeviceCrops, Plan, TrainingCrops, loaded_batches
from lgmnet.data.datasets import TrainingImages
from lgmnet.engine import checkpoint, runtime
from lgmnet.engine.building import (
    build_model,
    check_patch,
    check_trainable,
    open_data,
    start_model,
)
from lgmnet.engine.ema import WeightAverage
from lgmnet.engine.log import RunLog, provenance
from lgmnet.engine.runtime import Runtime, StopSignal
from lgmnet.engine.saver import Saver, restore
from lgmnet.engine.schedule import Position, progress, rate_factor
from lgmnet.losses import total_loss
from lgmnet.models import SensingModel


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite; the message says where, and what was kept."""


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
    model = build_model(config) if state else start_model(config, data.train)
    check_trainable(model)
    model.to(here.device).train()
    average = WeightAverage(model, settings.ema) if settings.ema else None
    optimizer = make_optimizer(model, settings)
    if state:
        at = restore(state, model, average, optimizer)
    wrapped = prepare(model, settings, here)
    crops, batches = open_batches(config, data.train, here, at.step)

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
    for reason in list(data.rejected.values())[:20]:
        log.say(f"  {reason}")
    saver = Saver(folder, config, model, average, optimizer, data, here, log)
    pending: list[tuple[Tensor, Tensor]] = []
    clock = logged = time.perf_counter()
    with StopSignal() as stop:
        while progress(at, settings) < 1:
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
            if settings.minutes:  # the schedule follows the clock: all must read the same one
                at.elapsed = here.agree(at.elapsed)

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
                logged = time.perf_counter()

        drain(pending, at.step, config, folder, here)
        if here.any_process(bool(stop.received)):
            saver.save_state(at)
            log.say(f"stopped by a signal after step {at.step}; continue with --resume")
        else:
            saver.finish(at)
    unreadable = crops.unreadable_names()
    if unreadable:
        log.say(f"{len(unreadable)} images could not be decoded: {', '.join(unreadable[:20])}")
    log.record(at.step, "end", {"unreadable": len(unreadable), "signal": stop.received})
    log.close()
    return stop.received


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
) -> tuple[TrainingCrops | DeviceCrops, Iterator[Tensor]]:
    """The source of crops, and its uint8 batches for this process from ``step`` on, without end."""
    rule = crop_rule(config)
    plan = Plan(step, config.training.batch_size, here.rank, here.processes)
    if config.data.source == "device":
        resident = DeviceCrops(images, here.device)
        return resident, resident.batches(rule, plan)
    crops = TrainingCrops(images, rule)
    return crops, loaded_batches(crops, plan, config.data.workers, here.device)


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
                settings.l1_weight,
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
