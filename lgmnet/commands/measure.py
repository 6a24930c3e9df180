"""Measure an image with the Φ of some weights: what a compressive camera would send."""

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/measure.py photo.png --output y.safetensors",
    )
    parser.add_argument(
        "image",
        type=Path,
        help="image or array file; its luma, or all its channels",
    )
    parser.add_argument("--weights", default="lgm_net_tiny_r0.10", help="name, folder or file")
    parser.add_argument("--ratio", type=float, help="of a network that serves a range of them")
    parser.add_argument("--at", help="condition, such as r0.05 or the name of a mask")
    parser.add_argument("--output", type=Path, required=True, help="a .safetensors file")
    parser.add_argument("--noise-std", type=float, default=0.0, help="in the unit of y")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser


def run(arguments: argparse.Namespace) -> int:
    if arguments.output.suffix != ".safetensors":
        raise ValueError(f"--output {arguments.output}: a measurement is a .safetensors file")
    from lgmnet.commands.measure_run import run  # imports PyTorch

    return run(arguments)
