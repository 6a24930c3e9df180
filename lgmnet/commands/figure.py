"""Draw a figure for a paper: PDF, PNG or SVG, with embedded fonts.

crops: an image and its reconstructions, by weights or from saved image files of the same size.
ratio: PSNR over the sampling ratio. cost: PSNR over the number of parameters and FLOPs.
experiment: PSNR of the rows of an experiment over their parameters.
stages: PSNR of the estimate after every stage of a network, the mean over a test set.
"""

import argparse
from pathlib import Path

FORMATS = (".pdf", ".png", ".svg")
EXAMPLES = """examples:
  python scripts/figure.py crops builtin/coffee.png ista_net_plus_5_r0.10 lgm_net_tiny_r0.10 \\
      --box 150,300,64 --labels ISTA-Net⁺ LGM-Net --output crops.pdf
  python scripts/figure.py ratio lgm_net_tiny_all_ratios lgm_net_tiny_r0.10 --output ratio.pdf
  python scripts/figure.py cost lgm_net_tiny_r0.10 ista_net_plus_5_r0.10 --output cost.pdf
  python scripts/figure.py experiment docs/experiments/networks.json --output networks.png
  python scripts/figure.py stages lgm_net_tiny_r0.10 ista_net_plus_5_r0.10 --data Set11 \\
      --output stages.pdf
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("crops", "ratio", "cost", "experiment", "stages"))
    parser.add_argument(
        "inputs",
        nargs="+",
        help="crops: an image (a file, Set11[3:4] or builtin/coffee.png), then weights or saved "
        "images; ratio and cost: results, as for the table; experiment: its .json file; stages: "
        "weights",
    )
    parser.add_argument("--labels", nargs="+", default=[], help="names in the figure, one for each")
    parser.add_argument("--output", type=Path, required=True, help="a .pdf, .png or .svg file")
    parser.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="TOP,LEFT,SIDE",
        help="crops: a part to enlarge, in pixels; repeat the option for more, at most three: "
        "--box 10,20,64 --box 150,300,64",
    )
    parser.add_argument("--region", metavar="TOP,LEFT,SIDE", help="crops: show only this part")
    parser.add_argument("--width", type=float, default=7.16, help="crops: width in inches")
    parser.add_argument(
        "--data",
        help="ratio, cost, experiment: the test set (default: the first); stages: (default: "
        "builtin)",
    )
    parser.add_argument("--ratio", type=float, help="cost: the ratio (default: the first)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser


def run(arguments: argparse.Namespace) -> int:
    if arguments.output.suffix.lower() not in FORMATS:
        raise ValueError(f"--output is '{arguments.output}', expected {', '.join(FORMATS)}")
    from lgmnet.papers.figure import draw  # imports PyTorch and matplotlib

    draw(arguments)
    print(f"written to {arguments.output}")
    return 0
