"""Train one unfolding network, at one sampling ratio or for a range of them.

The run (resolved config, log, checkpoints, metrics) is written to one folder.
"""

import argparse
from pathlib import Path

EXAMPLES = """examples:
  python train.py configs/quickstart.yaml
  python train.py configs/lgm_net.yaml sampling.ratio=0.25 data.train=data/coco2017/train2017
  python train.py configs/ista_net_plus.yaml training.rate=1e-3 --with configs/budget.yaml
  python train.py configs/lgm_net.yaml --resume
  python train.py configs/lorun_unet.yaml lora.backbone=runs/lorun_unet_r0.10 sampling.ratio=0.25
  torchrun --nproc-per-node 4 train.py configs/lgm_net.yaml
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="YAML file under configs/")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="override config entries; an unknown key is an error",
    )
    parser.add_argument(
        "--with",
        dest="joined",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="YAML file with settings for any network, such as configs/budget.yaml; repeatable",
    )
    parser.add_argument(
        "--output", type=Path, help="run folder (default: runs/<config name>_<ratio or mask>)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from last.pt in the run folder"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print config, data, sizes, cost and speed, and stop"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.commands.train_run import run  # imports PyTorch

    return run(arguments)
