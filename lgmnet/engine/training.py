"""The training loop, to be read from top to bottom."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lgmnet.config import Config, ConfigError, TrainingConfig
from lgmnet.data import jpeg
from lgmnet.data.crops import CropRule, DeviceCrops, Plan, TrainingCrops, loaded_batches
from lgmnet.data.datasets import TrainingImages
from lgmnet.engine import checkpoint, runtime
from lgmnet.engine.building import (
    build_model,
    check_run,
    check_trainable,
    open_data,
    start_model,
)
from lgmnet.engine.ema import WeightAverage
from lgmnet.engine.log import RunLog
from lgmnet.engine.runtime import Runtime, StopSignal
from lgmnet.engine.saver import Saver, restore
from lgmnet.engine.schedule import Position, progress, rate_factor
from lgmnet.losses import total_loss
from lgmnet.models import SensingModel

# Several processes rehearse so many first steps: from the second on the optimizer has its memory.
REHEARSALS = 2

# The loss, its terms and the gradient norm of one step, by name; scalars on the device.
Terms = dict[str, Tensor]


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
    settings = config.training
    check_run(config, here.processes)
    torch.manual_seed(settings.seed)  # the start of the network; steps are seeded one by one
    data = open_data(config)
    at = Position()
    state = checkpoint.load_training_state(folder / "last.pt", config) if resume else None
    if state and progress(Position(state["step"], state["elapsed"]), settings) >= 1:
        raise checkpoint.CheckpointError(
            f"the run in {folder} is finished (step {state['step']}); there is nothing to resume. "
            "A longer one needs more training.epochs or training.minutes"
        )
    if state:
        model = build_model(config, state["model"]["operator.matrix"])
    else:
        model = start_model(config, data.train)
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
    log.start(at.step, data, here)
    if state:
        log.resumed(at.step, checkpoint.changed_settings(state, config))
    saver = Saver(folder, config, model, average, optimizer, data, here, log)
    pending: list[Terms] = []
    stopped_by = 0
    gradients = Gradients(wrapped, model, settings, here, log.note)
    clock = logged = time.perf_counter()
    with StopSignal() as stop:
        while progress(at, settings) < 1:
            rate = settings.rate * rate_factor(at, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate

            optimizer.zero_grad(set_to_none=True)
            terms = gradients(next(batches), at.step)
            limit = settings.clip or math.inf
            terms["gradient_norm"] = nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
            at.step += 1
            if average is not None:
                average.update(model, at.step)
            pending.append(terms)
            now = time.perf_counter()
            at.elapsed, clock = at.elapsed + now - clock, now
            if settings.minutes:  # the schedule follows the clock: all must read the same one
                at.elapsed = here.agree(at.elapsed)

            if at.step % settings.log_every == 0:
                count = len(pending)
                means = drain(pending, at.step, config, folder, here)
                now = time.perf_counter()
                speed, logged = count * settings.batch_size / (now - logged), now
                log.step(at, rate, speed, means, here)
                line = f"step {at.step}  loss {means['loss']:.3e}  {speed:.0f} images/s"
                log.progress(100 * progress(at, settings), line)
            if settings.validate_every and at.step % settings.validate_every == 0:
                drain(pending, at.step, config, folder, here)
                saver.validate_and_save(at)
                logged = time.perf_counter()
            # Asking the others waits for the device: on a GPU only where the log waits anyway.
            if here.device.type == "cpu" or at.step % settings.log_every == 0:
                stopped_by = here.largest(stop.received)
                if stopped_by:
                    break

        drain(pending, at.step, config, folder, here)
        if stopped_by:
            saver.save_state(at)
            log.say(f"stopped by signal {stopped_by} after step {at.step}; go on with --resume")
        else:
            saver.finish(at)
    log.end(at.step, crops.unreadable_names(), stopped_by)
    return stopped_by


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
        model.network.compile(mode="reduce-overhead" if settings.cuda_graphs else "default")
    if here.processes == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[here.device] if here.device.type == "cuda" else None,
        broadcast_buffers=False,  # training changes none
        gradient_as_bucket_view=True,
        # No static_graph: it counts the backward passes of parts that are not exchanged, and then
        # sums wrong gradients (PyTorch 2.13).
    )


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
    if config.data.decode == "gpu":
        reason = jpeg.unavailable(images, here.device)
        if not reason:
            return crops, jpeg.decoded_batches(crops, plan, config.data.workers, here.device)
        if here.is_main:
            print(f"data.decode=gpu is not possible here, decoding on the CPU: {reason}")
    return crops, loaded_batches(crops, plan, config.data.workers, here.device)


@dataclass
class Gradients:
    """Gradients of batches, computed in as many parts as the memory asks for.

    When memory runs out, the parts of a batch are halved; the batch stays whole, so the step is the
    same. Several processes must agree on that before one of them waits for the others, so they
    rehearse their first steps without exchanging gradients; running out later ends the run.
    """

    wrapped: nn.Module
    model: SensingModel
    settings: TrainingConfig
    here: Runtime
    note: Callable[[int, str], None]
    rehearsals: int = REHEARSALS

    def __call__(self, batch: Tensor, step: int) -> Terms:
        """The loss, its terms, and the gradients of ``(b, 1, size, size)`` uint8 crops.

        Raises:
            ConfigError: a single crop does not fit into memory.
        """
        if self.here.processes == 1:
            return self._until_it_fits(batch, step)
        if self.rehearsals:
            self.rehearsals -= 1
            self._until_it_fits(batch, step)
            self.model.zero_grad(set_to_none=True)
        runtime.seed_step(self.settings.seed, step, self.here)
        return backward(self.wrapped, self.model, batch, self.settings, self.here)

    def _until_it_fits(self, batch: Tensor, step: int) -> Terms:
        while True:
            terms = self._attempt(batch, step)
            failed = self.here.largest(int(terms is None))
            if terms is not None and not failed:
                return terms
            self.model.zero_grad(set_to_none=True)
            runtime.release_memory()
            self._halve(len(batch), step)

    def _attempt(self, batch: Tensor, step: int) -> Terms | None:
        """Gradients of this process alone; None when memory ran out."""
        runtime.seed_step(self.settings.seed, step, self.here)
        try:
            return backward(self.model, self.model, batch, self.settings, self.here)
        except (RuntimeError, MemoryError) as error:
            if runtime.out_of_memory(error):
                return None
            if not (self.settings.compile and runtime.compilation_failed(error)):
                raise
            reason = str(error).strip().splitlines()[0]
        self.note(step, f"training.compile failed, going on without: {reason}")
        self.settings = replace(self.settings, compile=False)
        runtime.undo_compilation(self.model.network)
        self.model.zero_grad(set_to_none=True)
        return self._attempt(batch, step)

    def _halve(self, share: int, step: int) -> None:
        """Compute the ``share`` of this process in at least twice as many equal parts."""
        parts = self.settings.accumulate
        if parts >= share:
            raise ConfigError(
                "the memory does not hold a single crop; lower data.patch_size, or set "
                "training.recompute=true and training.precision=bf16"
            )
        more = next(k for k in range(2 * parts, share + 1) if share % k == 0)
        self.note(
            step,
            f"out of memory at step {step + 1}: the batch of {self.settings.batch_size} is kept, "
            f"now in {more} parts of {share // more} crops each per process, not {parts}",
        )
        self.settings = replace(self.settings, accumulate=more)


def backward(
    wrapped: nn.Module, model: SensingModel, batch: Tensor, settings: TrainingConfig, here: Runtime
) -> Terms:
    """Gradients of one batch ``(b, 1, size, size)`` uint8, in parts; the loss and its terms.

    Args:
        wrapped: the model, or what exchanges its gradients with other processes.
    """
    means: Terms = {}
    parts = batch.chunk(settings.accumulate)
    for k, part in enumerate(parts):
        target = part.float() / 255
        # Processes exchange gradients once per batch, with its last part.
        module = wrapped if k + 1 == len(parts) else model
        with runtime.autocast(here.device, settings.precision):
            reconstruction = module(target)
        loss, terms = total_loss(
            reconstruction,
            target,
            model.operator,
            settings.loss,
            settings.measurement_weight,
            settings.orthogonality_weight,
            settings.l1_weight,
        )
        (loss / len(parts)).backward()
        for name, term in {"loss": loss, **terms}.items():
            means[name] = means.get(name, 0) + term.detach() / len(parts)
    return means


def drain(
    pending: list[Terms], step: int, config: Config, folder: Path, here: Runtime
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
        name: here.mean(torch.stack([terms[name] for terms in pending])).tolist()
        for name in pending[0]
    }
    first = step - len(pending)
    pending.clear()
    for k, (loss, norm) in enumerate(zip(values["loss"], values["gradient_norm"], strict=True)):
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
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}
