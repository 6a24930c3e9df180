"""The rows of a table as numbers: measured, differences to a base row, published."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lgmnet import report
from lgmnet.papers.collect import Column, Found, Method
from lgmnet.papers.statistics import HOW, LEVEL, Difference, difference

# Of these a smaller value is better.
SMALLER = {"nmse", "rmse", "residual"}


class Number(NamedTuple):
    """One cell: mean and standard deviation over the seeds (None for one run)."""

    mean: float
    deviation: float | None = None
    runs: int = 1


@dataclass
class Line:
    """One row of the table. ``kind``: measured, published."""

    label: str
    kind: str
    numbers: dict[tuple[Column, str], Number] = field(default_factory=dict)
    differences: dict[tuple[Column, str], Difference] = field(default_factory=dict)
    source: str = ""


class Grid(NamedTuple):
    """A table: its columns (test set and condition), scores such as ``psnr``, rows and notes."""

    columns: list[Column]
    values: list[str]
    lines: list[Line]
    base: str | None
    notes: list[str]

    def best(self, key: tuple[Column, str]) -> float | None:
        """The best mean of a column, rounded as it is printed."""
        digits = report.DIGITS[key[1]]
        means = [
            round(line.numbers[key].mean, digits) for line in self.lines if key in line.numbers
        ]
        return (min if key[1] in SMALLER else max)(means) if len(means) > 1 else None


def build(
    methods: Sequence[Method],
    columns: Sequence[Column],
    values: Sequence[str],
    base: str | None = None,
    published: str = "own",
) -> Grid:
    """The table of methods.

    Args:
        columns: which test sets and conditions, in this order.
        values: scores of metrics.json, such as ``psnr`` and ``ssim``.
        base: label of the row that the others are compared with, image by image.
        published: rows of published.yaml: ``own`` (networks of the table), ``all`` or ``none``.

    Raises:
        ValueError: an unknown score, or no method with the label ``base``.
    """
    _known(methods, values, base)
    reference = next((method for method in methods if method.label == base), None)
    lines = [_measured(method, columns, values, reference) for method in methods]
    runs = [run for method in methods for found in method.cells.values() for run in found]
    own, notes = _published_lines(runs, columns, values, published)
    found = Grid(list(columns), list(values), [*lines, *own], base, notes)
    return found._replace(notes=[*_notes(found), *notes])


def _known(methods: Sequence[Method], values: Sequence[str], base: str | None) -> None:
    labels = [method.label for method in methods]
    if base is not None and base not in labels:
        raise ValueError(f"--base is '{base}', expected one of the rows: {', '.join(labels)}")
    wrong = [value for value in values if value not in report.DIGITS]
    if wrong:
        raise ValueError(f"unknown score '{wrong[0]}', expected {', '.join(report.DIGITS)}")


def _measured(
    method: Method, columns: Iterable[Column], values: Sequence[str], base: Method | None
) -> Line:
    line = Line(method.label, "measured")
    for column in columns:
        for value in values:
            scores = method.scores(column, value)
            if not scores:
                continue
            deviation = statistics.stdev(scores) if len(scores) > 1 else None
            line.numbers[column, value] = Number(statistics.fmean(scores), deviation, len(scores))
            if base is None or base is method:
                continue
            both = method.per_image(column, value), base.per_image(column, value)
            if (found := difference(*both)) is not None:
                line.differences[column, value] = found
    return line


def _published_lines(
    runs: Sequence[Found], columns: Sequence[Column], values: Sequence[str], which: str
) -> tuple[list[Line], list[str]]:
    """Rows of published results, and for those of own networks the settings that differ."""
    lines: dict[tuple[str, str], Line] = {}
    notes: dict[str, None] = {}
    for run in () if which == "none" else runs:
        at = report.condition(run.results)
        for column in (column for column in columns if column.at == at):
            if column.dataset not in run.results["datasets"]:
                continue
            known = report.comparable(run.results, column.dataset)
            if known and (own := report.differences(run.results, known)):
                weights = run.results.get("weights", run.path.parent.name)
                name = f"{weights} compared with {known.method} (published)"
                notes[f"{name}: {own}"] = None
            others = (
                report.published_all(run.results, column.dataset) if which == "all" else [known]
            )
            for result in (found for found in others if found):
                key = result.method, result.source
                line = lines.setdefault(key, Line(result.method, "published", source=result.source))
                for value, score in (("psnr", result.psnr), ("ssim", result.ssim)):
                    if value in values and score is not None:
                        line.numbers[column, value] = Number(score)
    return list(lines.values()), list(notes)


def _notes(grid: Grid) -> list[str]:
    """What a reader needs to know about the numbers."""
    notes = []
    measured = [line for line in grid.lines if line.kind == "measured"]
    rows_of_columns = Counter(key for line in measured for key in line.numbers).values()
    if len(measured) > 1 and max(rows_of_columns, default=0) < 2:
        notes.append(
            "No two rows were scored on the same test set at the same condition, so no numbers "
            "can be compared"
        )
    counts = sorted({number.runs for line in measured for number in line.numbers.values()})
    if counts and counts[-1] > 1:
        seeds = " to ".join(map(str, dict.fromkeys((max(2, counts[0]), counts[-1]))))
        notes.append(f"± is the standard deviation over {seeds} trainings with different seeds")
    found = [d for line in measured for d in line.differences.values()]
    if found:
        notes.append(f"Differences to {grid.base}: * means p < {LEVEL} ({HOW})")
        few = sorted({d.images for d in found if d.p is None})
        if few:
            notes.append(f"Sets of {', '.join(map(str, few))} images are too small for this test")
    sources = {line.label: line.source for line in grid.lines if line.kind == "published"}
    return notes + [f"Published row {label}: {source}" for label, source in sources.items()]
