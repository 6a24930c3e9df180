"""Import published weights of the original authors into a weights file of this project.

The pickle is read as tensors only; no code in it is executed.
"""

import argparse
from pathlib import Path

# Networks whose published weights can be imported.
NETWORKS = (
    "admm_csnet",
    "admm_net",
    "amp_net_tip",
    "fista_net",
    "ista_net",
    "ista_net_plus",
    "lgm_net",
    "prl",
    "usrnet",
)
# Data steps of the authors' two FISTA-Nets.
STEPS = ("gradient", "preconditioned")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python scripts/import_weights.py lgm_net net_params_best.pkl "
        "--output checkpoints/lgm_net_official_r0.10\n"
        "  python scripts/import_weights.py ista_net_plus net_params_200.pkl "
        "--mask mask_20.mat --output checkpoints/ista_net_plus_mri\n"
        "  python scripts/import_weights.py usrnet usrnet_tiny.pth "
        "--scale 3 --kernels kernels_12.mat --output checkpoints/usrnet_tiny_x3",
    )
    parser.add_argument("network", choices=NETWORKS, help="network of the weights")
    parser.add_argument("file", type=Path, help="the authors' .pkl, .pth or .mat file")
    parser.add_argument("--matrix", type=Path, help="the authors' Φ, if it is a separate file")
    parser.add_argument("--mask", help="for MRI: the mask file, because weights have no mask")
    parser.add_argument(
        "--init", type=Path, help="the authors' linear start, if it is a separate file"
    )
    parser.add_argument(
        "--step",
        choices=STEPS,
        help="for fista_net: the data step of the training code, which the tensors do not show "
        "(M5FISTANet: preconditioned)",
    )
    parser.add_argument(
        "--scale", type=int, help="for usrnet: s, 1 to 4; the weights serve all, a folder has one"
    )
    parser.add_argument(
        "--kernels", help="for usrnet: the file of kernels (default: gaussian, K1 to K8)"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.commands.import_weights_run import run  # imports PyTorch

    return run(arguments)
