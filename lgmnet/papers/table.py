"""Print one table of several results: LaTeX, Markdown or CSV.

Rows are methods, columns are test sets and ratios. Runs that differ only in their seed are one
row, with mean ± standard deviation. Published results of the same networks stand below.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lgmnet.files import write_text
from lgmnet.papers import render
from lgmnet.papers.collect import Column, collect, columns
from lgmnet.papers.grid import build

EXAMPLES = """examples:
  lgmnet table lgm_net_tiny_r0.10 ista_net_plus_5_r0.10 --base ista_net_plus_5 --latex
  lgmnet table runs/a_seed1 runs/a_seed2 runs/b --labels A A B --base B --data Set11
"""
FORMATS = {"latex": render.latex, "markdown": render.markdown, "csv": render.table_csv}


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    try:
        methods = collect(arguments.results, arguments.labels, arguments.protocol)
        shown = choose(columns(methods), arguments.data)
        base, published = arguments.base, arguments.published
        grid = build(methods, shown, arguments.scores, base, published)
        text = FORMATS[arguments.format](grid).rstrip("\n") + "\n"
        if arguments.output:
            write_text(arguments.output, text)
            text = f"written to {arguments.output}\n"
    except (ValueError, OSError) as error:
        print(f"lgmnet table: {error}", file=sys.stderr)
        return 1
    print(text, end="")
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="lgmnet table", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    found.add_argument(
        "results", nargs="+", help="run folders, metrics.json files or names of shipped weights"
    )
    for name in FORMATS:
        found.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, default="markdown"
        )
    found.add_argument("--labels", nargs="+", default=[], help="one for each result, as in a row")
    found.add_argument("--base", help="label of the row that the others are compared with")
    found.add_argument("--data", nargs="+", default=[], help="only these test sets, in this order")
    found.add_argument("--scores", nargs="+", default=["psnr", "ssim"], help="psnr, ssim, nmse, …")
    found.add_argument("--protocol", help="rules of scoring (default: those of the first result)")
    found.add_argument(
        "--published", choices=("own", "all", "none"), default="own",
        help="published rows of the same networks, of all methods, or none",
    )  # fmt: skip
    found.add_argument("--output", type=Path, help="a file in place of the screen")
    return found


def choose(found: Sequence[Column], names: Sequence[str]) -> list[Column]:
    """The columns of the named test sets, in the order of the names; all without names.

    Raises:
        ValueError: no result has a named test set.
    """
    known = list(dict.fromkeys(column.dataset for column in found))
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"no result is of '{missing[0]}'; there are {', '.join(known)}")
    return [column for name in names or known for column in found if column.dataset == name]


if __name__ == "__main__":
    sys.exit(main())
