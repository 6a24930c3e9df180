"""Write one page on one or several weights: scores, pictures, stages, Φ. It opens from the disk."""

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/report.py runs/a runs/b --data Set11 --output report.html",
    )
    add_weights(parser)
    parser.add_argument("--images", type=int, default=6, help="number of images with pictures")
    parser.add_argument("--noise-std", type=float, help="measurement noise, in the unit of y")
    parser.add_argument("--output", type=Path, default=Path("report.html"))
    return parser


def add_weights(parser: argparse.ArgumentParser) -> None:
    """The arguments of commands for several weights."""
    parser.add_argument(
        "weights",
        nargs="*",
        default=["lgm_net_tiny_r0.10"],
        help="names, folders or files of weights, or the YAML file of an algorithm",
    )
    parser.add_argument("--data", nargs="+", default=["builtin"], help="test sets or folders")
    parser.add_argument("--at", help="condition, such as r0.05 or the name of a mask")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.commands.report_run import run  # imports PyTorch

    return run(arguments)
