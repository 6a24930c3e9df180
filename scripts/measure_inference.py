"""Measure speed and memory of the fast paths on this machine, compared with the plain path.

Times are CPU times of one thread, plain and fast in turn within one process. Only their ratios
are meaningful. Memory is the largest resident size of a separate process, minus its size
after reconstructing a small image.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import complexity
from lgmnet.build import Source, build_model
from lgmnet.config import load_config
from lgmnet.models import SensingModel
from lgmnet.operators.matrices import orthonormal
from lgmnet.speed.inference import optimize_for_inference, prepare
from lgmnet.weights.saved import find_weights

EXAMPLES = """examples:
  python scripts/measure_inference.py configs/lgm_net.yaml
  python scripts/measure_inference.py lgm_net_tiny_r0.10 --side 512 --rounds 15
  python scripts/measure_inference.py configs/lgm_net.yaml --side 1024 --max-memory 400MiB
"""


def main() -> int:
    arguments = parse()
    try:
        if arguments.alone:
            print(peak(arguments))
        elif arguments.max_memory:
            compare_memory(arguments)
        else:
            compare_time(open_model(arguments.network), arguments)
    except (ValueError, OSError) as error:
        print(f"measure_inference.py: {error}", file=sys.stderr)
        return 1
    return 0


def open_model(network: str) -> SensingModel:
    """A model on the plain path: weights, or an untrained config with an orthonormal Φ."""
    model = find_weights(network).load() if not network.endswith(".yaml") else untrained(network)
    model.operator.gathers = False  # type: ignore[assignment]
    return model


def untrained(network: str) -> SensingModel:
    config = load_config(Path(network))
    sampling = config.block_sampling
    torch.manual_seed(0)
    matrix = orthonormal(sampling.measurements(), sampling.block_size**2)
    return build_model(config, Source({"matrix": matrix})).eval()


@torch.inference_mode()
def compare_time(model: SensingModel, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    fast = {precision: optimize_for_inference(model, precision) for precision in ("fp32", "bf16")}
    models = {"plain": model, **fast}
    y = model.measure(torch.rand(1, 1, arguments.side, arguments.side))
    images = {name: m.reconstruct(y) for name, m in models.items()}  # and so warmed up
    runs = {name: partial(m.reconstruct, y) for name, m in models.items()}
    seconds = complexity.interleave(runs, arguments.rounds, time.process_time, warmup=0)
    for name, times in seconds.items():
        ratio = complexity.speedup(seconds["plain"], times)
        error = float((images[name] - images["plain"]).abs().max())
        print(
            f"{name:6} {statistics.median(times):8.3f} s, plain / this {ratio.median:.2f} "
            f"({ratio.low:.2f} to {ratio.high:.2f}), largest difference {error:.1e}"
        )


def compare_memory(arguments: argparse.Namespace) -> None:
    sizes = []
    base = [sys.executable, __file__, arguments.network, "--side", str(arguments.side), "--alone"]
    strips = ["--fast", "--precision", arguments.precision, "--max-memory", arguments.max_memory]
    for name, flags in (("plain", []), ("strips", strips)):
        done = subprocess.run([*base, *flags], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr.strip())
        sizes.append(int(done.stdout))
        print(f"{name:6} {sizes[-1] / arguments.side**2:6.0f} bytes per pixel")
    print(f"strips / plain {sizes[1] / sizes[0]:.2f}")


@torch.inference_mode()
def peak(arguments: argparse.Namespace) -> int:
    """Bytes that the reconstruction of one image adds to this process."""
    torch.set_num_threads(1)
    model = open_model(arguments.network)
    model = prepare(model, arguments.fast, arguments.precision, arguments.max_memory)
    y = model.measure(torch.rand(1, 1, arguments.side, arguments.side))
    model.reconstruct(y[:, :, :2, :2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.reconstruct(y)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", help="weights by name, folder or file; or a config, untrained")
    parser.add_argument("--side", type=int, default=256, help="side of the square image, in pixels")
    parser.add_argument("--rounds", type=int, default=7, help="number of timed rounds")
    parser.add_argument(
        "--max-memory", help="compare memory: plain, and in strips within this limit"
    )
    parser.add_argument("--precision", default="fp32", help="precision of the strips: fp32 or bf16")
    parser.add_argument("--fast", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
