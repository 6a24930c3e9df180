"""Print one table of several results: LaTeX, Markdown or CSV.

Rows are methods, columns are test sets and ratios. Runs that differ only in their seed are one
row, with mean ± standard deviation. Published results of the same networks stand below.
"""

import argparse
from pathlib import Path

EXAMPLES = """examples:
  python scripts/table.py lgm_net_tiny_r0.10 ista_net_plus_5_r0.10 --base ista_net_plus_5 --latex
  python scripts/table.py runs/a_seed1 runs/a_seed2 runs/b --labels A A B --base B --data Set11
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results", nargs="+", help="run folders, metrics.json files or names of shipped weights"
    )
    for name in ("latex", "markdown", "csv"):
        parser.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, default="markdown"
        )
    parser.add_argument("--labels", nargs="+", default=[], help="one for each result")
    parser.add_argument("--base", help="label of the row that the others are compared with")
    parser.add_argument("--data", nargs="+", default=[], help="only these test sets, in this order")
    parser.add_argument("--scores", nargs="+", default=["psnr", "ssim"], help="psnr, ssim, nmse, …")
    parser.add_argument("--protocol", help="rules of scoring (default: those of the first result)")
    parser.add_argument(
        "--published",
        choices=("own", "all", "none"),
        default="own",
        help="published rows of the same networks, of all methods, or none",
    )
    parser.add_argument("--output", type=Path, help="a file in place of the screen")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.papers.table import table  # imports SciPy

    text = table(arguments)
    if arguments.output is not None:
        from lgmnet.files import write_text

        write_text(arguments.output, text)
        text = f"written to {arguments.output}\n"
    print(text, end="")
    return 0
