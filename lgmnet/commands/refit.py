"""Adapt trained weights to your own Φ: a short training that starts from them.

Φ stays as it is, divided by its largest singular value. The run is a run of train.py: its folder
has the weights, the config (refit.yaml) and the log.
"""

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/refit.py phi.npy --output runs/own --minutes 3",
    )
    parser.add_argument("matrix", type=Path, help="your Φ: .npy, .npz, .mat or .safetensors")
    parser.add_argument("--weights", default="lgm_net_tiny_r0.10", help="name, folder or file")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=3.0, help="of training (default: 3)")
    length.add_argument("--steps", type=int, help="of training, instead of minutes")
    parser.add_argument("--rate", type=float, default=1e-3, help="largest learning rate")
    parser.add_argument("--data", nargs="+", default=["builtin"], help="training images")
    parser.add_argument("--column-major", action="store_true", help="pixels numbered as in MATLAB")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.commands.refit_run import run  # imports PyTorch

    return run(arguments)
