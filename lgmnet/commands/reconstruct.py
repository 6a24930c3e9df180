"""Rebuild an image from a measurement file, with the weights it was measured with.

Or from the numbers of your own camera (.csv, .txt, .npy, .npz, .mat): see docs/own-camera.md.
"""

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/reconstruct.py y.safetensors --output out.png",
    )
    parser.add_argument("measurement", type=Path, help="a file of scripts/measure.py, or numbers")
    parser.add_argument("--weights", default="lgm_net_tiny_r0.10", help="name, folder or file")
    parser.add_argument("--output", type=Path, required=True, help="out.png, or out.npy")
    parser.add_argument("--fast", action="store_true", help="the rewritten network, same numbers")
    parser.add_argument("--precision", default="fp32", help="fp32, tf32 (GPU), or with --fast bf16")
    parser.add_argument("--max-memory", help="work in strips that fit, such as 2GiB; same numbers")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    camera = parser.add_argument_group("numbers of your own camera")
    camera.add_argument("--matrix", type=Path, help="your Φ (default: that of the weights)")
    camera.add_argument("--size", help="height x width of the image in pixels: 96x128")
    camera.add_argument("--order", default="blocks", help="blocks: one after the other; patterns")
    camera.add_argument("--pairs", default="none", help="none, alternating (+ - + -), halves")
    camera.add_argument("--column-major", action="store_true", help="numbered as in MATLAB")
    camera.add_argument("--dark", type=float, default=0.0, help="reading without light")
    camera.add_argument("--white", type=float, default=1.0, help="reading of one white pixel")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.commands.reconstruct_run import run  # imports PyTorch

    return run(arguments)
