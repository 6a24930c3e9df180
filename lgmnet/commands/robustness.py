"""PSNR over noise, bits, a wrong Φ, shifts and sizes: curves of one or several weights.

Writes robustness.csv, .png, .pdf and .html. Each image is reconstructed about 30 times.
"""

import argparse
from pathlib import Path

from lgmnet.commands.report import add_weights


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/robustness.py runs/a runs/b --data Set11",
    )
    add_weights(parser)
    parser.add_argument("--output", type=Path, default=Path("results/robustness"), help="folder")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.commands.robustness_run import run  # imports PyTorch

    return run(arguments)
