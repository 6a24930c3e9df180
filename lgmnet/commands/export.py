"""Write a model as one file that runs without this package and maps y to the image.

.pt2 is for PyTorch (torch.export.load), .onnx for other programs. Any batch size, and any height
and width in whole blocks, are possible. The file gives the output of the model to 1e-5.
"""

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/export_model.py lgm_net_tiny_r0.10 "
        "--output results/lgm_net_tiny.onnx",
    )
    parser.add_argument("weights", help="name, folder or file")
    parser.add_argument("--ratio", type=float, help="of a network that serves a range of them")
    parser.add_argument("--at", help="condition, such as r0.05 or the name of a mask")
    parser.add_argument("--output", type=Path, required=True, help="a .pt2 or .onnx file")
    parser.add_argument(
        "--from-image",
        action="store_true",
        help="include the measurement, without noise: image to image",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.commands.export_run import run  # imports PyTorch

    return run(arguments)
