"""Check that this machine reproduces known numbers.

The command imports the ISTA-Net⁺ weights of the original authors, reconstructs Set11, scores the
reconstructions under every protocol, and compares the scores with stored values.
"""

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/verify.py --weights ISTA-Net-PyTorch",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="folder with model/ and sampling_matrix/ of github.com/jianzhangcs/ISTA-Net-PyTorch "
        "(default: sought in data/istanet and under LGMNET_DATA)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.commands.verify_run import run  # imports PyTorch

    return run(arguments)
