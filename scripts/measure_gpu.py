"""Time the parts of a training step on a GPU: convolutions by format, Φ, and a whole step.

Prints Markdown. Device and host are timed separately: a step takes as long as
the slower of the two. --device cpu uses small sizes and only shows that the script runs.
"""

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import runtime
from lgmnet.build import build_model
from lgmnet.config import load_config
from lgmnet.operators import BlockSampling
from lgmnet.operators.matrices import orthonormal
from lgmnet.runtime import Runtime
from lgmnet.training.batches import open_batches
from lgmnet.training.images import open_data
from lgmnet.training.learner import Learner
from lgmnet.training.states import resolve_precision

EXAMPLES = """examples:
  python scripts/measure_gpu.py configs/lgm_net_budget.yaml training.compile=false
  python scripts/measure_gpu.py configs/lgm_net_budget.yaml --only step --device cpu model.D=1
"""
SECTIONS = ("convolutions", "operator", "step")
# Channels in and out, and the scale: the convolutions of LGM-Net, and widths in multiples of 8.
SHAPES = (
    (8, 8, 1), (25, 8, 1), (32, 8, 1), (32, 32, 2), (100, 32, 2), (104, 32, 2), (128, 128, 4),
    (400, 128, 4),
)  # fmt: skip
# Name, type, channels_last, TF32, and whether cuDNN tries its algorithms first.
FORMATS = (
    ("fp32 NCHW", torch.float32, False, False, False),
    ("fp32 NHWC", torch.float32, True, False, False),
    ("tf32 NCHW", torch.float32, False, True, False),
    ("tf32 NHWC", torch.float32, True, True, False),
    ("bf16 NCHW", torch.bfloat16, False, False, False),
    ("bf16 NHWC", torch.bfloat16, True, False, False),
    ("bf16 NHWC, benchmark", torch.bfloat16, True, False, True),
)


class Clock:
    """Milliseconds of a call: of the device, with a full queue; of the host, with an empty one."""

    def __init__(self, here: Runtime, rounds: int) -> None:
        self.here, self.rounds = here, rounds

    def device(self, run: Callable[[], object]) -> float:
        for _ in range(3):
            run()
        self.here.synchronise()
        start = time.perf_counter()
        for _ in range(self.rounds):
            run()
        self.here.synchronise()
        return 1e3 * (time.perf_counter() - start) / self.rounds

    def host(self, run: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            self.here.synchronise()
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        return sorted(times)[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="YAML file under configs/")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="override config entries")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_intermixed_args()
    with runtime.start(arguments.device) as here:
        small = here.device.type == "cpu"
        clock, batch, side = (
            Clock(here, 2 if small else 30),
            2 if small else 64,
            32 if small else 128,
        )
        if "convolutions" in arguments.only:
            convolutions(clock, batch, side)
        if "operator" in arguments.only:
            operator(clock, batch, side)
        if "step" in arguments.only:
            training_step(arguments.config, arguments.overrides, Clock(here, 2 if small else 10))
    return 0


def convolutions(clock: Clock, batch: int, side: int) -> None:
    """3 x 3 convolutions, forward and backward."""
    device = clock.here.device
    print(f"\nConvolutions 3 x 3, forward and backward, {batch} x {side} x {side} / scale, ms\n")
    head(["channels", "scale", *(name for name, *_ in FORMATS)])
    for inputs, outputs, scale in SHAPES:
        times = []
        for _, kind, last, tf32, benchmark in FORMATS:
            layout = torch.channels_last if last else torch.contiguous_format
            shapes = (batch, inputs, side // scale, side // scale), (outputs, inputs, 3, 3)
            x, w = (
                torch.randn(shape, device=device, dtype=kind)
                .contiguous(memory_format=layout)
                .requires_grad_()
                for shape in shapes
            )
            with torch.backends.cudnn.flags(
                enabled=True, benchmark=benchmark, deterministic=False, allow_tf32=tf32
            ):
                times.append(clock.device(both_ways(partial(F.conv2d, padding=1), x, w)))
        row([f"{inputs} to {outputs}", f"1/{scale}", *(f"{each:.3f}" for each in times)])


def both_ways(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], object]:
    """The forward and the backward pass."""

    def run() -> None:
        result = function(*inputs)
        torch.autograd.grad(result, inputs, result.detach())

    return run


def there_and_back(phi: BlockSampling, image: Tensor) -> Tensor:
    return phi.adjoint(phi(image))


def operator(clock: Clock, batch: int, side: int) -> None:
    """Φ and Φᵀ of images, ΦᵀΦ of features."""
    device = clock.here.device
    print(f"\nΦ and Φᵀ of {batch} images, ΦᵀΦ of 8 channels, forward and backward, ms\n")
    head(["block", "m", "Φ, Φᵀ as products", "as convolutions", "ΦᵀΦ, fp32 inside", "in bf16"])

    for block, m, size in ((32, 103, side), (32, 512, side), (33, 109, side // 33 * 33 or 33)):
        phi = BlockSampling(orthonormal(m, block**2), block).to(device)
        image = torch.rand(batch, 1, size, size, device=device, requires_grad=True)
        times = []
        for gathers in (True, False):
            phi.gathers = gathers
            times.append(clock.device(both_ways(partial(there_and_back, phi), image)))
        phi.gathers = True
        x = torch.randn(batch, 8, size, size, device=device, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        for reduced in (False, True):
            phi.reduced_gram = reduced
            times.append(clock.device(both_ways(phi.gram, x)))
        row([str(block), str(m), *(f"{each:.3f}" for each in times)])


def training_step(path: Path, overrides: list[str], clock: Clock) -> None:
    """Times of the parts of a training step, and where the host waits for the device."""
    here = clock.here
    config = resolve_precision(load_config(path, overrides), here)
    learner = Learner(build_model(config), config, here)
    batches = open_batches(config, open_data(config).train, here, 0)[1]
    batch, numbers = next(batches), itertools.count(1)
    rate = config.training.rate

    def step(batch: Tensor) -> None:
        number = next(numbers)
        learner.derive(batch, number)
        learner.move(number, rate)

    def whole() -> None:
        step(next(batches))

    runs: dict[str, Callable[[], object]] = {
        "data": lambda: next(batches),
        "gradients": lambda: learner.derive(batch, 0),
        "gradients, clip, optimiser, average": lambda: step(batch),
        "whole step": whole,
    }
    crops = f"{config.training.batch_size} crops of {config.data.crop_size}"
    print(f"\nTraining step of {config.model.name}, {crops}, {config.training.precision}, ms\n")
    head(["part", "device", "host"])
    whole()
    for name, run in runs.items():
        row([name, f"{clock.device(run):.2f}", f"{clock.host(run):.2f}"])
    print(f"\npeak memory {here.peak_memory() / 2**10:.2f} GiB")
    if here.device.type == "cuda":
        print_waits(whole)
        print_kernels(whole, here)


def print_waits(run: Callable[[], None]) -> None:
    """Print the lines at which the host waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    torch.cuda.set_sync_debug_mode("default")
    places = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in caught})
    print(f"the host waits for the device at: {', '.join(places) or 'no line'}")


def print_kernels(run: Callable[[], None], here: Runtime) -> None:
    """Print the number of kernels of one step, and the slowest kernels."""
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profile:
        run()
        here.synchronise()
    kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(e.time_range.elapsed_us() for e in kernels) / 1e3
    print(f"{len(kernels)} kernels and copies, {busy:.1f} ms of the device\n")
    print(profile.key_averages().table(sort_by="self_device_time_total", row_limit=12))


def head(cells: list[str]) -> None:
    """The first row of a Markdown table."""
    print("| " + " | ".join(cells) + " |\n|" + " --- |" * len(cells))


def row(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
