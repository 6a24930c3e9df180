"""What a run would cost, before it is started."""

import shutil
import time

import torch

from lgmnet import complexity
from lgmnet.config import Config
from lgmnet.data.images import ImageError
from lgmnet.engine.building import build_model, check_patch, check_trainable, open_data
from lgmnet.engine.runtime import Runtime
from lgmnet.engine.training import backward, make_optimizer, open_batches, prepare

# Parameters, gradients and two moments of Adam, each in float32.
BYTES_PER_PARAMETER = 16
SPEED_SECONDS = 5.0
MIB = 2**20


def preflight(config: Config, here: Runtime) -> int:
    """Print config, images, size, cost, memory and measured speed of a run; train nothing.

    Returns:
        0, or 1 if the run could not start.
    """
    check_patch(config)
    if here.is_main:
        print(config.as_yaml())
    try:
        _print_images(config)
    except ImageError as error:
        print(f"images            none: {error}")
        _print_size(config)
        return 1
    _print_size(config)
    _print_speed(config, here)
    return 0


def _print_images(config: Config) -> None:
    data = open_data(config)
    held = len(data.validation.names) if data.validation else 0
    print(f"images            {len(data.train.names)} good, {held} for validation")
    small = [reason for reason in data.rejected.values() if "too small" in reason]
    bad = [reason for reason in data.rejected.values() if "too small" not in reason]
    for title, reasons in (("too small", small), ("unreadable", bad)):
        print(f"{title:<17} {len(reasons)}")
        for reason in reasons[:10]:
            print(f"                  {reason}")
        if len(reasons) > 10:
            print(f"                  and {len(reasons) - 10} more")


def _print_size(config: Config) -> None:
    model = build_model(config)
    check_trainable(model)
    side, settings = config.data.patch_size, config.training
    cost = complexity.cost(model, side, side)
    total = complexity.parameters(model)
    # Autocast keeps most activations in two bytes instead of four.
    share = 0.5 if settings.precision == "bf16" else 1.0
    activations = cost.activations * share * settings.batch_size / settings.accumulate
    memory = total * BYTES_PER_PARAMETER + activations
    print(f"parameters        {total:,} with Φ, {complexity.parameters(model.network):,} without")
    print(
        f"one {side} x {side} crop  {cost.flops / 1e9:.2f} GFLOP = {cost.macs / 1e9:.2f} GMAC "
        "forward; a training step costs about three times that"
    )
    note = ", less with recomputation" if settings.recompute else ""
    print(f"memory            about {memory / MIB:,.0f} MiB in all processes together{note}")
    free = shutil.disk_usage(".").free
    print(
        f"disk              {free / MIB:,.0f} MiB free; a state takes {total * 16 / MIB:,.0f} MiB"
    )


def _print_speed(config: Config, here: Runtime) -> None:
    """Run real steps for some seconds; the time that follows for the whole run."""
    seconds, waiting = _measure(config, here)
    settings = config.training
    total = round(settings.minutes * 60 / seconds) if settings.minutes else settings.steps
    where = torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else "CPU"
    speed = f"{1 / seconds:.2f} steps/s = {settings.batch_size / seconds:.1f} crops/s"
    print(f"speed             {speed} on {here.processes} x {where}")
    print(f"waiting for data  {100 * waiting:.0f} % of the time")
    print(f"the whole run     {total:,} steps, {total * seconds / 3600:.1f} h")
    print(f"peak memory       {here.peak_memory():,.0f} MiB measured in this process")


def _measure(config: Config, here: Runtime) -> tuple[float, float]:
    """Seconds per step, and the share of it that waits for data."""
    model = build_model(config).to(here.device).train()
    optimizer = make_optimizer(model, config.training)
    wrapped = prepare(model, config.training, here)
    _, batches = open_batches(config, open_data(config).train, here, 0)
    steps, loading, started = 0, 0.0, 0.0
    limit = time.perf_counter() + SPEED_SECONDS
    while steps < 3 or time.perf_counter() < limit:
        if steps == 1:  # the first step compiles, allocates and starts the loader
            here.synchronise()
            started, loading = time.perf_counter(), 0.0
        before = time.perf_counter()
        batch = next(batches)
        loading += time.perf_counter() - before
        optimizer.zero_grad(set_to_none=True)
        backward(wrapped, model, batch, config.training, here)
        optimizer.step()
        steps += 1
    here.synchronise()
    seconds = (time.perf_counter() - started) / (steps - 1)
    return seconds, loading / (steps - 1) / seconds
