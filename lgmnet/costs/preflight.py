"""The dry run: estimate the cost of a run before it starts."""

import dataclasses
import itertools
import shutil
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from lgmnet import complexity
from lgmnet.build import build_model
from lgmnet.config import Config
from lgmnet.data.images import ImageError
from lgmnet.runtime import Runtime
from lgmnet.speed.precision import kind_of, precision_note
from lgmnet.training.batches import open_batches
from lgmnet.training.checks import check_run, check_trainable
from lgmnet.training.images import TrainingData, open_data
from lgmnet.training.learner import Learner
from lgmnet.training.states import resolve_precision

# Parameters, gradients and two moments of Adam, each in float32.
BYTES_PER_PARAMETER = 16
SPEED_SECONDS = 5.0
# On a CPU, a step that is expected to take more seconds is estimated from one crop per process.
LONGEST_STEP = 10.0
MIB = 2**20


def preflight(config: Config, here: Runtime) -> int:
    """Print config, images, size, cost, memory and measured speed of a run, without training it.

    Returns:
        0, or 1 if the run could not start.
    """
    check_run(config, here)
    asked = config.training.precision
    config = resolve_precision(config, here)
    show = here.say
    show(config.as_yaml())
    precision = config.training.precision
    chosen = f" ({asked}, on this {kind_of(here.device)})" if asked == "auto" else ""
    show(f"precision         {precision}{chosen}")
    if note := precision_note(precision, here.device):
        show(f"{'note':<17} {note}")
    try:
        data = open_data(config)
    except ImageError as error:
        show(f"images            none: {error}")
        _print_size(config, show)
        if here.is_main:
            print(f"this run cannot start: {error}", file=sys.stderr)
        return 1
    _print_images(data, show)
    _print_size(config, show)
    _print_speed(config, data, here, show)
    return 0


def _print_images(data: TrainingData, show: Callable[[str], None]) -> None:
    held = len(data.validation.names) if data.validation else 0
    show(f"images            {len(data.train.names)} good, {held} for validation")
    small = [reason for reason in data.rejected.values() if "too small" in reason]
    bad = [reason for reason in data.rejected.values() if "too small" not in reason]
    for title, reasons in (("too small", small), ("unreadable", bad)):
        show(f"{title:<17} {len(reasons)}")
        for reason in reasons[:10]:
            show(f"                  {reason}")
        if len(reasons) > 10:
            show(f"                  and {len(reasons) - 10} more")


def _print_size(config: Config, show: Callable[[str], None]) -> None:
    model = build_model(config)
    check_trainable(model)
    side, settings = config.data.crop_size, config.training
    cost = complexity.cost(model, side, side, channels=model.operator.channels)
    total = complexity.parameters(model)
    # Autocast keeps most activations in two bytes instead of four.
    share = 0.5 if settings.precision == "bf16" else 1.0
    activations = cost.activations * share * settings.batch_size / settings.accumulate
    memory = total * BYTES_PER_PARAMETER + activations
    step = 3 * cost.training_flops / cost.flops  # the backward pass costs two of the forward
    show(f"parameters        {total:,} with Φ, {complexity.parameters(model.network):,} without")
    if frozen := complexity.parameters(model, frozen=True) - total:
        show(f"frozen            {frozen:,} parameters of the backbone beside them")
    show(
        f"one {side} x {side} crop  {cost.flops / 1e9:.2f} GFLOP = {cost.macs / 1e9:.2f} GMAC "
        f"forward; a training step costs about {step:.1f} times that"
    )
    note = ", less with recomputation" if settings.recompute else ""
    show(f"memory            about {memory / MIB:,.0f} MiB for weights, Adam and activations{note}")
    free = shutil.disk_usage(".").free
    show(f"disk              {free / MIB:,.0f} MiB free; a state takes {total * 16 / MIB:,.0f} MiB")


def _print_speed(
    config: Config, data: TrainingData, here: Runtime, show: Callable[[str], None]
) -> None:
    """Run real steps for some seconds, and estimate the time of the whole run."""
    speed = _measure(config, data, here, show)
    settings = config.training
    total = round(settings.minutes * 60 / speed.seconds) if settings.minutes else settings.steps
    where = torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else "CPU"
    rate = f"{1 / speed.seconds:.3g} steps/s = {settings.batch_size / speed.seconds:.1f} crops/s"
    compiling = ", compiling included" if settings.compile else ""
    if speed.scale > 1:
        show(
            f"estimated         from steps of {here.processes} of {settings.batch_size} crops: "
            f"their time is multiplied by {speed.scale:g}; training itself needs more memory"
        )
    show(f"first step        {speed.first:.1f} s{compiling}; training.minutes begins after it")
    show(f"speed             {rate} on {here.processes} x {where}")
    show(f"waiting for data  {100 * speed.waiting:.0f} % of the time")
    hours = total * speed.seconds / 3600
    length = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"
    show(f"the whole run     {total:,} steps, {length}, and validation")
    show(f"peak memory       {here.peak_memory():,.0f} MiB of this process, libraries included")


class Speed(NamedTuple):
    """Seconds of the first step and of a later step, and the share of waiting for data.

    scale: the factor of times that are not measured, but estimated from a smaller batch.
    """

    first: float
    seconds: float
    waiting: float
    scale: float = 1.0


def _measure(
    config: Config, data: TrainingData, here: Runtime, show: Callable[[str], None]
) -> Speed:
    """The speed of real steps; on a CPU, steps of one crop per process come first."""
    settings, one = config.training, here.processes
    if here.device.type != "cpu" or settings.batch_size == one:
        return _measure_steps(config, data, here, show, SPEED_SECONDS)
    small = dataclasses.replace(settings, batch_size=one, accumulate=1)
    trial = dataclasses.replace(config, training=small)
    speed = _measure_steps(trial, data, here, show, 0.0)
    scale = settings.batch_size / one
    if not here.agree(float(speed.seconds * scale > LONGEST_STEP)):
        return _measure_steps(config, data, here, show, SPEED_SECONDS)
    return Speed(speed.first * scale, speed.seconds * scale, speed.waiting, scale)


def _measure_steps(
    config: Config, data: TrainingData, here: Runtime, show: Callable[[str], None], least: float
) -> Speed:
    """Measure steps of this config, at least two, for ``least`` seconds."""
    learner = Learner(build_model(config), config, here)
    learner.note = lambda step, text: show(f"{'note':<17} {text}")
    _, batches = open_batches(config, data.train, here, 0)
    numbers = itertools.count()

    def step() -> float:
        """Run one step; return the seconds it waited for its batch."""
        before = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - before
        number = next(numbers)
        learner.derive(batch, number)
        learner.move(number, config.training.rate)
        return waited

    started = time.perf_counter()
    step()  # compiles, allocates and starts the loader
    here.synchronise()
    first = time.perf_counter() - started
    seconds, waiting = _timed(step, here, least)
    if here.device.type == "cuda":
        # Steps were only queued, so the queue may have waited, not the device.
        _, waiting = _timed(step, here, least, alone=True)
    return Speed(first, seconds, waiting)


def _timed(
    step: Callable[[], float], here: Runtime, least: float, alone: bool = False
) -> tuple[float, float]:
    """Seconds per step, and the share of waiting for data.

    Args:
        alone: wait for the device after each step, so that waiting for data is idle time.
    """
    steps, waited = 0, 0.0
    started = time.perf_counter()
    while here.agree(float(steps < 2 or time.perf_counter() < started + least)):
        waited += step()
        steps += 1
        if alone:
            here.synchronise()
    here.synchronise()
    seconds = time.perf_counter() - started
    return seconds / steps, waited / seconds
