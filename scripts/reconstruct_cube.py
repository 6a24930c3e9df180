"""Rebuild a spectral cube from the picture of a real camera and its mask."""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import runtime
from lgmnet.data.images import printable, write_array
from lgmnet.data.transforms import channels_last
from lgmnet.operators import CodedAperture
from lgmnet.speed.memory import OUT_OF_MEMORY, out_of_memory
from lgmnet.weights.snapshot import model_of_camera, read_snapshot


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/reconstruct_cube.py tsa_real_scene1.mat --mask "
        "tsa_real_mask660.mat --output cube.npy model.iterations=60",
    )
    parser.add_argument("measurement", type=Path, help="a .mat, .npy or .npz file, (H, W)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of a config")
    parser.add_argument("--mask", required=True, help="a file, by path or below the data folder")
    parser.add_argument("--weights", default="configs/cassi_gap_tv.yaml", help="weights or config")
    parser.add_argument("--output", type=Path, required=True, help="cube.npy, (H, W, bands)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_intermixed_args()
    try:
        if arguments.output.suffix != ".npy":
            raise ValueError(f"--output is {arguments.output}, expected a name such as cube.npy")
        cube = rebuild(arguments)
        write_array(arguments.output, cube)
    except (ValueError, OSError) as error:
        print(f"reconstruct_cube.py: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        print(f"reconstruct_cube.py: {OUT_OF_MEMORY}", file=sys.stderr)
        return 1
    print(f"{' x '.join(map(str, cube.shape))}: written to {printable(arguments.output)}")
    return 0


def rebuild(arguments: argparse.Namespace) -> np.ndarray:
    """The cube ``(H, W, bands)``. Prints how well it explains the measurement."""
    with runtime.start(arguments.device) as here:
        runtime.announce(here, sys.stderr)
        model = model_of_camera(arguments.weights, arguments.mask, tuple(arguments.overrides))
        assert isinstance(model.operator, CodedAperture)
        y = read_snapshot(arguments.measurement, model.operator).to(here.device)
        model = model.to(here.device)
        with torch.inference_mode():
            image = model.reconstruct(y)
            residual = float((model.operator(image) - y).norm() / y.norm())
    print(f"residual |Φx - y| / |y|: {residual:.4f}")
    return channels_last(image[0].cpu().numpy())


if __name__ == "__main__":
    sys.exit(main())
