"""Numbers -> tables: measured values beside published ones."""

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

# Heads of the columns that test.py --consistency adds.
CONSISTENCY = {"residual": "‖Φx̂−y‖/‖y‖", "psnr_on_y": "PSNR on Φx=y"}
# Digits that scores are printed with.
DIGITS = {"psnr": 2, "ssim": 4, "residual": 4, "psnr_on_y": 2}


class Published(NamedTuple):
    """A published result: PSNR in dB, SSIM (None where not printed), and where it stands."""

    method: str
    psnr: float
    ssim: float | None
    training: str
    source: str


def published(network: str, dataset: str, ratio: float, protocol: str) -> Published | None:
    """What the authors print for this network, test set, ratio and protocol, if they do."""
    text = resources.files("lgmnet").joinpath("published.yaml").read_text(encoding="utf-8")
    for table in yaml.safe_load(text):
        if table["dataset"] != dataset or table["protocol"] != protocol:
            continue
        if ratio not in table["ratios"]:
            continue
        column = table["ratios"].index(ratio)
        for row in table["rows"]:
            if row.get("network") == network and row["psnr"][column] is not None:
                ssim = row["ssim"][column] if "ssim" in row else None
                training = row.get("training", "")
                psnr = row["psnr"][column]
                return Published(row["method"], psnr, ssim, training, table["source"])
    return None


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up when read as text; numbers to the right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(3, *(len(row[k]) for row in cells)) for k in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: Sequence[str]) -> str:
        padded = [row[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "| " + " | ".join(padded) + " |"

    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def comparison(results: Mapping[str, Any]) -> str:
    """Markdown of a ``metrics.json``: measured, published, difference, one row per test set."""
    rows, sources = [], set()
    comparable = (
        results.get("color", "luma"),
        results.get("padding", "zeros"),
        results.get("noise_std", 0),
    ) == ("luma", "zeros", 0)
    first = next(iter(results["datasets"].values()))
    extra = [key for key in CONSISTENCY if key in first]
    for name, data in results["datasets"].items():
        known = published(results["network"], name, results["ratio"], results["protocol"])
        seconds = [image["seconds"] for image in data["images"].values()]
        row = [name, str(len(data["images"])), number(data["psnr"], 2), number(data["ssim"], 4)]
        if known and comparable and data["psnr"] is not None:
            row += [number(known.psnr, 2), f"{data['psnr'] - known.psnr:+.2f}"]
            sources.add(f"published: {known.method}, trained on {known.training} ({known.source})")
            if results.get("options"):
                chosen = ", ".join(f"{k} = {v}" for k, v in results["options"].items())
                sources.add(f"this network differs from the published one: {chosen}")
        else:
            row += ["-", "-"]
        row.append(f"{sum(seconds) / len(seconds):.2f}")
        rows.append(row + [number(data[key], DIGITS[key]) for key in extra])
    header = ["test set", "images", "PSNR", "SSIM", "published PSNR", "difference", "s/image"]
    header += [CONSISTENCY[key] for key in extra]
    return "\n".join([markdown(header, rows), *sorted(sources)])


def experiment_table(experiment: Mapping[str, Any]) -> str:
    """Markdown of an experiment: one row per combination, mean ± standard deviation over seeds.

    Args:
        experiment: ``columns``, keys of a run (``parameters``) or of its scores
            (``Set11 psnr``), and ``runs``, as scripts/experiment.py writes them.
    """
    columns, runs = experiment["columns"], experiment["runs"]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault(tuple(run["choices"].values()), []).append(run)
    header = [*runs[0]["choices"], *(_head(column) for column in columns)] if runs else ["run"]
    rows = [
        [*choices, *(_cell(column, members) for column in columns)]
        for choices, members in groups.items()
    ]
    return markdown(header, rows)


def _head(column: str) -> str:
    dataset, _, key = column.rpartition(" ")
    name = CONSISTENCY.get(key, key.upper() if dataset else key)
    return f"{dataset} {name}".strip()


def _cell(column: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """One number of some runs: itself where it is always the same, else mean ± deviation."""
    dataset, _, key = column.rpartition(" ")
    values = [run["scores"][dataset][key] if dataset else run[key] for run in runs]
    if not dataset:
        return f"{values[0]:,}"
    mean, digits = number(statistics.fmean(values), DIGITS[key]), DIGITS[key]
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def number(value: float | None, digits: int) -> str:
    """``value`` with so many digits; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``metrics.json`` and ``metrics.csv`` (one row per image)."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite(results), indent=2, ensure_ascii=False, allow_nan=False)
    # Complete or not there: a half-written file would pass for a result.
    unfinished = folder / ".metrics.json"
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(folder / "metrics.json")
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["dataset", "image", "psnr", "ssim", "seconds"])
        for dataset, data in results["datasets"].items():
            for image, values in data["images"].items():
                row = [values["psnr"], values["ssim"], values["seconds"]]
                writer.writerow([dataset, image, *row])


def finite(value: Any) -> Any:
    """``value`` with null for numbers that JSON cannot hold (the PSNR of identical images)."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
