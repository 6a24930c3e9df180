"""Compare the cost of LoRun and of networks with one denoiser per stage.

Memory is that of training: the activations kept for the backward pass, counted on the meta
device, and weights, gradients and two moments of Adam. Times are ratios of steps that are run in
turn on this machine.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import complexity, runtime
from lgmnet.config import PRECISIONS
from lgmnet.models import LoRun, SensingModel
from lgmnet.operators import BlockSampling, matrices
from lgmnet.speed.precision import autocast, convolutions

BLOCK_SIZE = 32
MIB = 2**20
VARIANTS = {"Block-1": "block1", "Block-K": "independent", "Block-K-share": "shared"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/measure_lorun.py --denoisers transformer --rounds 5",
    )
    parser.add_argument("--denoisers", nargs="+", default=["unet", "transformer", "dpfb"])
    parser.add_argument("--stages", type=int, default=9)
    parser.add_argument("--gamma", type=float, default=10.0)
    parser.add_argument("--ratio", type=float, default=0.1, help="measurements per pixel")
    parser.add_argument("--crop", type=int, default=96, help="side of the crops, in pixels")
    parser.add_argument("--batch", type=int, default=2, help="crops per timed step")
    parser.add_argument(
        "--image", type=int, default=256, help="side of the reconstructed image, in pixels"
    )
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument(
        "--rounds", type=int, default=5, help="timed rounds; 0: no timing, only counts"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_args()
    try:
        with runtime.start(arguments.device) as here:
            runtime.announce(here, sys.stderr)
            for denoiser in arguments.denoisers:
                print(f"\n{denoiser}, training:\n")
                print("\n".join(training_table(denoiser, arguments, here)))
                print(f"\n{denoiser}, inference:\n")
                print("\n".join(inference_table(denoiser, arguments, here)))
    except (ValueError, OSError) as error:
        print(f"measure_lorun.py: {error}", file=sys.stderr)
        return 1
    return 0


def build(sharing: str, denoiser: str, arguments: argparse.Namespace) -> SensingModel:
    """The network of a YAML file, with a random Φ with orthonormal rows."""
    exclude = ("upsample",) if denoiser == "dpfb" else ()
    m = matrices.measurement_count(arguments.ratio, BLOCK_SIZE, "ceil")
    operator = BlockSampling(matrices.orthonormal(m, BLOCK_SIZE**2), BLOCK_SIZE)
    network = LoRun(
        sharing, arguments.stages, denoiser=denoiser, gamma=arguments.gamma, exclude=exclude
    )
    model = SensingModel(operator, network)
    if arguments.channels_last:
        runtime.use_channels_last(model.network)
    return model


def training_table(
    denoiser: str, arguments: argparse.Namespace, here: runtime.Runtime
) -> Iterator[str]:
    variants = VARIANTS | {"LoRun-K": "lora"}
    models = {name: build(s, denoiser, arguments).to(here.device) for name, s in variants.items()}
    side = arguments.crop
    image = torch.rand(arguments.batch, 1, side, side, device=here.device)
    steps = {name: training_step(model, image, arguments, here) for name, model in models.items()}
    times = relative_times(steps, "Block-K", arguments.rounds, here)
    whole = complexity.parameters(models["Block-K"].network, frozen=True)
    yield f"| K = {arguments.stages} | parameters | of Block-K | trained | weights, gradients, Adam | activations of a crop | step time |"  # noqa: E501
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, model in models.items():
        network = model.network
        total, trained = (complexity.parameters(network, frozen=f) for f in (True, False))
        state = (4 * total + 12 * trained) / MIB
        activations = complexity.cost(model, side, side).activations / MIB
        yield (
            f"| {name} | {total:,} | {total / whole:.1%} | {trained:,} | {state:.1f} MiB | "
            f"{activations:.1f} MiB | {times[name]} |"
        )


def inference_table(
    denoiser: str, arguments: argparse.Namespace, here: runtime.Runtime
) -> Iterator[str]:
    """Time of the two ways to apply adapters, and of a network with one denoiser per stage."""
    lora = build("lora", denoiser, arguments).to(here.device).eval()
    assert isinstance(lora.network, LoRun)
    models = {
        "Block-K": build("independent", denoiser, arguments).to(here.device).eval(),
        "LoRun-K, on the fly": lora,
        "LoRun-K, merged per stage": SensingModel(lora.operator, lora.network.merged()).eval(),
    }
    y = lora.measure(torch.rand(1, 1, arguments.image, arguments.image, device=here.device))
    runs = {name: partial(model.reconstruct, y) for name, model in models.items()}
    times = relative_times(runs, "Block-K", arguments.rounds, here)
    yield f"| {arguments.image} x {arguments.image} image | weights | time |"
    yield "| --- | ---: | ---: |"
    for name, model in models.items():
        size = 4 * complexity.parameters(model.network, frozen=True) / MIB
        yield f"| {name} | {size:.2f} MiB | {times[name]} |"


def training_step(
    model: SensingModel, image: Tensor, arguments: argparse.Namespace, here: runtime.Runtime
) -> Callable[[], object]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with convolutions(arguments.precision, fixed_size=True):
            with autocast(here.device, arguments.precision):
                rebuilt = model(image).image
            (rebuilt.float() - image).square().mean().backward()
        optimizer.step()

    return step


def relative_times(
    runs: Mapping[str, Callable[[], object]], reference: str, rounds: int, here: runtime.Runtime
) -> dict[str, str]:
    """Median and range of the time of each run divided by that of ``reference``, run in turn."""
    if not rounds:
        return dict.fromkeys(runs, "-")
    seconds = complexity.interleave(runs, rounds, complexity.clock(here.device))
    ratios = {
        name: complexity.speedup(times, seconds[reference]) for name, times in seconds.items()
    }
    return {name: f"{r.median:.2f} ({r.low:.2f} to {r.high:.2f})" for name, r in ratios.items()}


if __name__ == "__main__":
    sys.exit(main())
