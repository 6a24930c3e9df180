"""The table that ``lgmnet table`` prints."""

import argparse
from collections.abc import Sequence

from lgmnet.papers import render
from lgmnet.papers.collect import Column, collect, columns
from lgmnet.papers.grid import build

FORMATS = {"latex": render.latex, "markdown": render.markdown, "csv": render.table_csv}


def table(arguments: argparse.Namespace) -> str:
    """The text of a table, from the arguments of the command.

    Raises:
        ValueError: results are missing or cannot be compared.
    """
    methods = collect(arguments.results, arguments.labels, arguments.protocol)
    shown = choose(columns(methods), arguments.data)
    grid = build(methods, shown, arguments.scores, arguments.base, arguments.published)
    return FORMATS[arguments.format](grid).rstrip("\n") + "\n"


def choose(found: Sequence[Column], names: Sequence[str]) -> list[Column]:
    """The columns of the named test sets, in the order of the names; all without names.

    Raises:
        ValueError: no result has a named test set.
    """
    known = list(dict.fromkeys(column.dataset for column in found))
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"no result is of '{missing[0]}'; there are {', '.join(known)}. The scores of test.py "
            "are in results/<weights>: name this folder"
        )
    return [column for name in names or known for column in found if column.dataset == name]
