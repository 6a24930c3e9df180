"""Measure networks in turn in one process: size, arithmetic, time, memory.

A network is a config, with changes after commas, or weights by name, folder or file. `plain:`
before it switches off everything that makes it faster: the network runs in fp32, NCHW, eager mode,
with Φ by strided convolutions. All networks are timed in turn, and each round is compared with the
first network.

Writes benchmark.json and benchmark.md; with --metrics also benchmark.png.
"""

import argparse
from pathlib import Path

EXAMPLES = """examples:
  python scripts/benchmark.py configs/lgm_net.yaml configs/ista_net_plus.yaml
  python scripts/benchmark.py plain:configs/lgm_net.yaml \\
      configs/lgm_net.yaml,training.precision=bf16,training.channels_last=true --train 8
  python scripts/benchmark.py lgm_net_tiny_r0.10 lgm_net_tiny_r0.25 \\
      --metrics checkpoints/lgm_net_tiny_r0.*/metrics.json
  python scripts/benchmark.py configs/lgm_net.yaml --compare other/code.py:TheirNet
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("networks", nargs="*", help="YAML[,KEY=VALUE,...] or weights; plain: before it")
    add(
        "--compare",
        nargs="+",
        default=[],
        metavar="PATH:CLASS",
        help="an nn.Module of another project",
    )
    add(
        "--size",
        type=positive,
        default=256,
        help="side of the images (256), rounded up to whole blocks",
    )
    add("--batch", type=positive, default=1, help="images at a time (1)")
    add("--rounds", type=positive, default=9, help="rounds that count (9)")
    add("--warmup", type=positive, default=1, help="warm-up rounds, which do not count (1)")
    add(
        "--train",
        type=positive,
        default=0,
        metavar="BATCH",
        help="also time training steps with this number of crops",
    )
    add("--data", nargs="+", default=("builtin",), help="images for the training steps")
    add(
        "--data-rate",
        action="store_true",
        help="also measure crops per second of the data pipeline",
    )
    add("--profile", action="store_true", help="also write a Chrome trace of one inference of each")
    add("--metrics", nargs="+", type=Path, default=[], help="metrics.json files, for the plot")
    add("--dataset", default="Set11", help="test set whose PSNR is plotted (Set11)")
    add("--threads", type=positive, help="CPU threads; one gives the most stable times")
    add("--output", type=Path, default=Path("results/benchmark"), help="folder (results/benchmark)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    if not arguments.networks and not arguments.compare:
        raise ValueError("name at least one network: a config or weights, or --compare PATH:CLASS")
    from lgmnet.commands.benchmark_run import run  # imports PyTorch

    return run(arguments)
