"""Rebuild an image from a measurement file, with the weights it was measured with."""

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/reconstruct.py y.safetensors --output out.png",
    )
    parser.add_argument("measurement", type=Path, help="a file that scripts/measure.py wrote")
    parser.add_argument("--weights", default="lgm_net_tiny_r0.10", help="name, folder or file")
    parser.add_argument("--output", type=Path, required=True, help="out.png, or out.npy")
    parser.add_argument("--fast", action="store_true", help="the rewritten network, same numbers")
    parser.add_argument("--precision", default="fp32", help="fp32, tf32 (GPU), or with --fast bf16")
    parser.add_argument("--max-memory", help="work in strips that fit, such as 2GiB; same numbers")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.commands.reconstruct_run import run  # imports PyTorch

    return run(arguments)
