"""Score weights on test sets: PSNR and SSIM per image, with the published values.

Writes metrics.json, metrics.csv and, on request, the reconstructions. Existing scores of other test
sets are kept. Test sets are added to a file with the same weights and rules. Otherwise a new file
is named by what differs from metrics.json, such as metrics.rounded.json or metrics.bf16.json. The
exit code is 1 if an image could not be scored.
"""

import argparse
from pathlib import Path

from lgmnet.metrics import PROTOCOLS
from lgmnet.weights.listing import listing

EXAMPLES = """examples:
  python test.py
  python test.py checkpoints/lgm_net_tiny_r0.10 --data Set11 BSD68 --save-images
  python test.py runs/quickstart_r0.10 --data path/to/folder --output results/mine
  python test.py runs/quickstart_r0.10 --data Set11 --protocol paper rounded gaussian
  python test.py runs/lgm_net_tiny_all_ratios_r0.01-0.50 --ratio 0.05 0.1 --data Set11
  python test.py runs/lorun_unet_r0.10/backbone --adapters runs/other/adapters.safetensors
  python test.py runs/quickstart_r0.10 --data Set11 --report
  python test.py lgm_net_tiny_r0.10 --matrix phi.npy --data Set11
  python test.py configs/fista.yaml sampling.ratio=0.25 --data Set11
  torchrun --nproc-per-node 4 test.py runs/lgm_net_r0.10 --data Urban100
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights",
        nargs="?",
        default="lgm_net_tiny_r0.10",
        help="name, folder or file; or the YAML file of an algorithm without trained values",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="override entries of this YAML file"
    )
    parser.add_argument(
        "--adapters", type=Path, help="LoRun's adapters file; WEIGHTS then gives the backbone"
    )
    parser.add_argument(
        "--merge",
        help="adapters: on_the_fly (memory of one denoiser, default) or per_stage (faster)",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--matrix", type=Path, help="measure with your Φ instead: .npy, .npz, .mat, .safetensors"
    )
    parser.add_argument(
        "--column-major", action="store_true", help="pixels of --matrix numbered as in MATLAB"
    )
    other.add_argument("--mask", help="spectral imaging: measure with this mask instead")
    parser.add_argument(
        "--data", nargs="+", default=["builtin"], help="test sets by name, folder or image"
    )
    parser.add_argument(
        "--at",
        nargs="+",
        help="conditions, for a network with several conditions: r0.05, or the name of a mask",
    )
    parser.add_argument(
        "--ratio", nargs="+", type=float, help="sampling ratios, for a network for a range: 0.05"
    )
    parser.add_argument("--output", type=Path, help="folder (default: results/<weights>)")
    parser.add_argument(
        "--save-images",
        action="store_true",
        help="save reconstructions as PNG (as .npy unless they have 1 or 3 channels); images that "
        "are not in whole blocks are padded by replicate for this, unless --padding is given",
    )
    parser.add_argument(
        "--report", action="store_true", help="also write report.html: pictures, stages and Φ"
    )
    parser.add_argument(
        "--protocol",
        nargs="+",
        help=f"one or more of {', '.join(PROTOCOLS)} (default: that of the weights' config)",
    )
    parser.add_argument("--color", help="luma; rgb: each channel separately; color; bands")
    parser.add_argument("--padding", help="zeros (as published), replicate or crop")
    parser.add_argument(
        "--noise-std", type=float, help="measurement noise, in the unit of y (default: as trained)"
    )
    parser.add_argument(
        "--bits", type=int, help="bits of the detector, 0 for real numbers (default: as trained)"
    )
    parser.add_argument(
        "--consistency",
        action="store_true",
        help="add ‖Φx̂ − y‖ / ‖y‖, and the PSNR after projection onto Φx = y",
    )
    parser.add_argument(
        "--fast", action="store_true", help="use the network rewritten for speed, same output"
    )
    parser.add_argument("--precision", default="fp32", help="fp32, tf32 (GPU), or with --fast bf16")
    parser.add_argument(
        "--max-memory", help="limit, such as 2GiB: reconstruct in strips, same output"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument(
        "--list", action="store_true", help="list the shipped weights with their PSNR, and stop"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        print(listing())
        return 0
    from lgmnet.commands.test_run import run  # imports PyTorch

    return run(arguments)
