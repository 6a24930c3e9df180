"""A table as LaTeX (booktabs), Markdown or CSV."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from itertools import groupby

from lgmnet import report
from lgmnet.papers.collect import Column
from lgmnet.papers.grid import Grid, Line, Number

HEADS = {"psnr": "PSNR (dB)", "ssim": "SSIM", **report.ADDED}
# Greek letters that look like no Latin letter, by the names that LaTeX has for them.
GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta",
    "η": "eta", "θ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu",
    "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "varphi",
    "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta",
    "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
RAISED, LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉"
# Signs of LaTeX and letters that its fonts lack, as LaTeX.
SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "⁺": r"$^{+}$", "−": "$-$", "‖": r"$\|$",
    "ᵀ": r"$^{\top}$", "x̂": r"$\hat{x}$", "W̃": r"$\tilde{W}$", "<": "$<$", ">": "$>$",
    "≡": r"$\equiv$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\to$",
    "|": "$|$",
    **{letter: rf"$\{name}$" for letter, name in GREEK.items()},
    **{digit: f"$^{k}$" for k, digit in enumerate(RAISED)},
    **{digit: f"$_{k}$" for k, digit in enumerate(LOWERED)},
}  # fmt: skip
SIGN = re.compile("|".join(map(re.escape, SIGNS)))


def tex(text: str) -> str:
    """``text`` with the signs that LaTeX would read as commands written out."""
    return SIGN.sub(lambda match: SIGNS[match[0]], text)


def latex(grid: Grid) -> str:
    """A tabular for ``\\usepackage{booktabs}``; notes are comments below it."""
    count = len(grid.columns) * len(grid.values)
    lines = [
        r"\begin{tabular}{l" + "c" * count + "}",
        r"\toprule",
        *_latex_heads(grid),
        r"\midrule",
    ]
    kind = grid.lines[0].kind if grid.lines else ""
    for line in grid.lines:
        if line.kind != kind:
            lines.append(r"\midrule")
        kind = line.kind
        for label, cells in _rows(grid, line, bold=r"\textbf{{{}}}".format, escape=tex):
            lines.append(" & ".join([tex(label), *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [f"% {note}" for note in grid.notes]
    return "\n".join(["% needs \\usepackage{booktabs}", *lines, *notes])


def _latex_heads(grid: Grid) -> list[str]:
    """Test sets, conditions and scores, one line each; a line that says nothing is left out."""
    sets, rules, place = [], [], 2
    for name, group in groupby(grid.columns, key=lambda column: column.dataset):
        width = len(list(group)) * len(grid.values)
        sets.append(rf"\multicolumn{{{width}}}{{c}}{{{tex(name)}}}")
        rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
        place += width
    width = len(grid.values)
    conditions = [tex(report.condition_title(column.at)) for column in grid.columns]
    if width > 1:
        conditions = [rf"\multicolumn{{{width}}}{{c}}{{{text}}}" for text in conditions]
    scores = [tex(HEADS[value]) for value in grid.values] * len(grid.columns)
    lines = [["", *sets], ["ratio" if _ratios(grid) else "", *conditions], ["method", *scores]]
    heads = [" & ".join(line) + r" \\" for line in lines]
    return [heads[0], "".join(rules), *heads[1:]]


def _ratios(grid: Grid) -> bool:
    return all(not isinstance(column.at, str) for column in grid.columns)


def markdown(grid: Grid) -> str:
    """A Markdown table with the notes as a list below it."""
    heads = [f"{column} {HEADS[value]}" for column, value in _keys(grid)]
    rows = [
        [label, *cells]
        for line in grid.lines
        for label, cells in _rows(grid, line, bold="**{}**".format, escape=str)
    ]
    table = report.markdown(["method", *heads], rows)
    return "\n".join([table, "", *(f"- {note}" for note in grid.notes)]).strip()


def table_csv(grid: Grid) -> str:
    """One line per row, test set, condition and score, with all digits: for other programs."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["method", "kind", "test_set", "condition", "score", "mean", "std", "runs",
         "base", "difference", "images", "p_wilcoxon", "source"]
    )  # fmt: skip
    for line in grid.lines:
        for key, number in line.numbers.items():
            (dataset, at), value = key
            found = line.differences.get(key)
            paired = [grid.base, found.mean, found.images, found.p] if found else [None] * 4
            writer.writerow(
                [line.label, line.kind, dataset, at, value, number.mean, number.deviation,
                 number.runs if line.kind == "measured" else None, *paired, line.source]
            )  # fmt: skip
    return text.getvalue()


def _keys(grid: Grid) -> list[tuple[Column, str]]:
    return [(column, value) for column in grid.columns for value in grid.values]


def _rows(
    grid: Grid, line: Line, bold: Callable[[str], str], escape: Callable[[str], str]
) -> Iterator[tuple[str, list[str]]]:
    """The label and the cells of one row, and of the row below it with the differences."""
    cells = []
    for key in _keys(grid):
        number, digits = line.numbers.get(key), report.DIGITS[key[1]]
        text = escape(_text(number, digits)) if number else escape("–")
        best = number is not None and round(number.mean, digits) == grid.best(key)
        cells.append(bold(text) if best else text)
    yield (f"{line.label} (published)" if line.kind == "published" else line.label), cells
    if line.differences:
        yield f"difference to {grid.base}", [escape(_change(line, key)) for key in _keys(grid)]


def _text(number: Number, digits: int) -> str:
    mean = f"{number.mean:.{digits}f}"
    return mean if number.deviation is None else f"{mean} ± {number.deviation:.{digits}f}"


def _change(line: Line, key: tuple[Column, str]) -> str:
    found = line.differences.get(key)
    if found is None:
        return "–"
    text = f"{found.mean:+.{report.DIGITS[key[1]]}f}".replace("-", "−")
    return text + ("*" if found.significant else "")
