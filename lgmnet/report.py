"""Tables of measured numbers, with published values for comparison."""

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

# Heads of the columns that a protocol adds, or test.py --consistency.
ADDED = {"nmse": "NMSE", "rmse": "RMSE", "residual": "‖Φx̂−y‖/‖y‖", "psnr_on_y": "PSNR on Φx=y"}
# Published results are without noise or detector, on images padded with zeros.
USUAL: tuple[tuple[str, Any], ...] = ("padding", "zeros"), ("noise_std", 0), ("detector", {})
# Digits that scores are printed with.
DIGITS = {"psnr": 2, "ssim": 4, "nmse": 4, "rmse": 4, "residual": 4, "psnr_on_y": 2}


class Published(NamedTuple):
    """A published result: PSNR in dB, SSIM (None if not printed), and its source."""

    method: str
    psnr: float
    ssim: float | None
    training: str
    source: str
    options: Mapping[str, Any]
    """Options of the network that are not the defaults here."""
    sampling: Mapping[str, Any]
    """The known settings of Φ, by their names in the config."""


def published(
    network: str,
    dataset: str,
    at: float | str,
    protocol: str,
    color: str = "luma",
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Published | None:
    """What the authors print for this network, test set, condition and protocol, if they do.

    Args:
        at: a ratio as a number, or the name of another condition, such as a mask.
        options: of the network, where they are not the defaults. An option that any published row
            of this network names must be as in the row; others may differ.
    """
    tables = _published_tables()
    rows = [(t, row) for t in tables for row in t["rows"] if row.get("network") == network]
    named = {key for _, row in rows for key in row.get("options", {})}
    chosen = {key: value for key, value in options.items() if key in named}
    for table, row in rows:
        same = table["dataset"] == dataset and table["protocol"] == protocol
        scored = color in table.get("color", ["luma"]) and at in table["conditions"]
        if same and scored and row.get("options", {}) == chosen:
            found = _published(table, row, table["conditions"].index(at))
            if found.psnr is not None:
                return found
    return None


def published_all(results: Mapping[str, Any], dataset: str) -> list[Published]:
    """Every published result with the test set, protocol and condition of a ``metrics.json``."""
    if any(results.get(key, usual) != usual for key, usual in USUAL):
        return []
    at, color = condition(results), results.get("color", "luma")
    found = [
        _published(table, row, table["conditions"].index(at))
        for table in _published_tables()
        if table["dataset"] == dataset and table["protocol"] == results["protocol"]
        if color in table.get("color", ["luma"]) and at in table["conditions"]
        for row in table["rows"]
    ]
    return [row for row in found if row.psnr is not None]


def condition(results: Mapping[str, Any]) -> Any:
    """What a metrics.json was measured at: a ratio as a number, else the name of the condition."""
    return results["condition"] if "condition" in results else results["ratio"]


def condition_title(at: float | str) -> str:
    """A condition in tables: ``10 %``, or its name."""
    return at if isinstance(at, str) else f"{100 * at:g} %"


@cache
def _published_tables() -> list[dict[str, Any]]:
    """The content of ``published.yaml``; reading it takes a quarter of a second."""
    text = resources.files("lgmnet").joinpath("published.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _published(table: Mapping[str, Any], row: Mapping[str, Any], column: int) -> Published:
    return Published(
        method=row["method"],
        psnr=row["psnr"][column],
        ssim=row["ssim"][column] if "ssim" in row else None,
        training=row.get("training", ""),
        source=table["source"],
        options=row.get("options", {}),
        sampling=row.get("sampling", {}),
    )


def comparable(results: Mapping[str, Any], dataset: str) -> Published | None:
    """The published value for a test set of a ``metrics.json``, or None."""
    if any(results.get(key, usual) != usual for key, usual in USUAL):
        return None
    return published(
        results["network"], dataset, condition(results), results["protocol"],
        results.get("color", "luma"), results.get("options", {}),
    )  # fmt: skip


def differences(results: Mapping[str, Any], known: Published) -> str:
    """The settings of a ``metrics.json`` that differ from a published result, as text.

    Training data are always named, because the same name may mean other images.
    """
    options, sampling = results.get("options", {}), results.get("sampling", {})
    found = [f"{k} = {v}" for k, v in options.items() if known.options.get(k) != v]
    found += [
        f"{k} = {sampling[k]} (published: {v})"
        for k, v in known.sampling.items()
        if sampling.get(k, v) != v
    ]
    if data := results.get("training_data"):
        found.append(f"trained on {data} (published: {known.training})")
    return ", ".join(found)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; all columns but the first are aligned right."""
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
    results = finite(results)
    rows, notes = [], set()
    extra = [key for key in ADDED if any(key in d for d in results["datasets"].values())]
    for name, data in results["datasets"].items():
        known = comparable(results, name)
        row = [name, _scored(data), number(data["psnr"], 2), number(data["ssim"], 4)]
        if known and data["psnr"] is not None:
            row += [number(known.psnr, 2), f"{data['psnr'] - known.psnr:+.2f}"]
            notes.add(f"published: {known.method}, trained on {known.training} ({known.source})")
            if own := differences(results, known):
                notes.add(f"this network: {own}")
        else:
            row += ["-", "-"]
        seconds = [image["seconds"] for image in data["images"].values()]
        row.append(number(sum(seconds) / len(seconds) if seconds else None, 2))
        rows.append(row + [number(data.get(key), DIGITS[key]) for key in extra])
        notes |= {f"{name}: the mean {note}" for note in _counts(data)}
    header = ["test set", "images", "PSNR", "SSIM", "published PSNR", "difference", "s/image"]
    header += [ADDED[key] for key in extra]
    return "\n".join([markdown(header, rows), *sorted(notes)])


def _scored(data: Mapping[str, Any]) -> str:
    """``11``, or ``10 of 11`` if an image could not be scored."""
    count, failed = len(data["images"]), len(data.get("failed", {}))
    return f"{count} of {count + failed}" if failed else str(count)


def _counts(data: Mapping[str, Any]) -> list[str]:
    """Notes on means that do not include all scored images."""
    count = len(data["images"])
    counted = {key: data.get(f"{key}_images", count) for key in ("psnr", "ssim")}
    return [
        f"{key.upper()} is over {n} of {count} images; the others have none"
        for key, n in counted.items()
        if n < count
    ]


# A column of an experiment that is no score of its runs.
DIFFERENCE = "difference"
Rows = dict[tuple[str, ...], list[Mapping[str, Any]]]


def experiment_table(experiment: Mapping[str, Any]) -> str:
    """Markdown of an experiment: one row per combination, mean ± standard deviation over seeds.

    Args:
        experiment: ``columns``, keys of a run (``parameters``) or of its scores
            (``Set11 psnr``), and ``runs``, as scripts/experiment.py writes them.
            ``Set11 difference`` is the PSNR minus that of the first choice with the same seed.
            ``across`` may name an axis; then its choices have columns of scores instead of rows.
    """
    columns, runs, rows = experiment["columns"], experiment["runs"], experiment_rows(experiment)
    axes = list(runs[0]["choices"]) if runs else ["run"]
    across = experiment.get("across")
    place = axes.index(across) if across in axes else len(axes)
    lines: dict[tuple[str, ...], Rows] = {}
    for choices, members in rows.items():
        line = choices[:place] + choices[place + 1 :]
        lines.setdefault(line, {})[choices[place : place + 1]] = members
    spread = list(dict.fromkeys(at for found in lines.values() for at in found)) or [()]
    header = axes[:place] + axes[place + 1 :]
    cells = [list(line) for line in lines]
    for column in columns:
        block = [
            [
                _cell(column, found.get(at, []), _first(rows, line[:place] + at + line[place:]))
                for at in spread
            ]
            for line, found in lines.items()
        ]
        once = " " not in column and all(len({*values} - {"–"}) < 2 for values in block)
        for row, values in zip(cells, block, strict=True):
            row += [next((v for v in values if v != "–"), "–")] if once else values
        header += [_head(column)] if once else [", ".join((_head(column), *at)) for at in spread]
    return markdown(header, cells)


def experiment_rows(experiment: Mapping[str, Any]) -> Rows:
    """The runs of an experiment by their choices: those of one row differ in the seed only."""
    rows: Rows = {}
    for run in experiment["runs"]:
        rows.setdefault(tuple(run["choices"].values()), []).append(run)
    return rows


def _first(rows: Rows, choices: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """The first row whose choices differ in the last axis only."""
    return next((runs for found, runs in rows.items() if found[:-1] == choices[:-1]), [])


def _head(column: str) -> str:
    dataset, _, key = column.rpartition(" ")
    name = ADDED.get(key, key.upper() if dataset and key != DIFFERENCE else key)
    return f"{dataset} {name}".strip()


def _cell(
    column: str, runs: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]
) -> str:
    """One number of several runs. Scores are mean ± deviation over the runs."""
    dataset, _, key = column.rpartition(" ")
    if not runs or not all(dataset in r["scores"] if dataset else column in r for r in runs):
        return "–"
    if not dataset:
        value = runs[0][key]
        return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
    if key == DIFFERENCE:
        values, digits, sign = _differences(dataset, runs, first), DIGITS["psnr"], "+"
    else:
        values, digits, sign = [run["scores"][dataset][key] for run in runs], DIGITS[key], ""
    if not values or None in values:  # such as the PSNR of identical images
        return "–"
    mean = f"{statistics.fmean(values):{sign}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _differences(
    dataset: str, runs: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]
) -> list[float]:
    """PSNR minus that of the first row, for each seed that both have; none for the row itself."""
    base = {run["seed"]: run["scores"].get(dataset, {}).get("psnr") for run in first}
    pairs = [(run["scores"][dataset]["psnr"], base.get(run["seed"])) for run in runs]
    return [] if runs is first else [own - b for own, b in pairs if None not in (own, b)]


def replace_block(text: str, name: str, table: str) -> str:
    """``text`` with a new table ``name``.

    A table is between the lines ``<!-- table: name -->`` and ``<!-- /table -->``.

    Raises:
        ValueError: ``text`` does not contain these two lines exactly once.
    """
    opening, closing = f"<!-- table: {name} -->\n", "<!-- /table -->"
    before, found, rest = text.partition(opening)
    old, closed, after = rest.partition(closing)
    if not (found and closed) or "<!-- table:" in old or opening in after:
        raise ValueError(
            f"expected the line {opening.strip()} once, and {closing} below it; write both lines "
            "at the place of the table"
        )
    return f"{before}{opening}{table.strip()}\n{closing}{after}"


def number(value: float | None, digits: int) -> str:
    """``value`` with ``digits`` digits; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def finite(value: Any) -> Any:
    """``value`` with null for infinity and NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def benchmark_tables(results: dict[str, Any]) -> str:
    """A benchmark.json as Markdown."""
    where, side = results["machine"], results["size"]
    parts = [
        f"{where['device']}, {where['threads']} threads, PyTorch {where['torch']}, commit "
        f"{where['commit']}; clock: {where['clock']}; {results['rounds']} rounds in turn after "
        f"{results['warmup']} to warm up; images of {side} x {side}, "
        f"in each network's whole blocks, {results['batch']} at a time.",
        cost_table(results),
    ]
    training = {n: r["training"] for n, r in results["networks"].items() if "training" in r}
    if training:
        parts.append(training_table(training))
    for source, rate in results.get("crops_per_second", {}).items():
        parts.append(f"Crops per second and process, {source}: {rate:,.0f}")
    return "\n\n".join(parts)


def cost_table(results: dict[str, Any]) -> str:
    head = ["network", "side", "parameters", "without Φ", "GFLOP", "GMAC", "p50 ms", "p95 ms",
            "images/s", "MiB", "ratio", "spread", "PSNR"]  # fmt: skip
    rows = []
    for name, row in results["networks"].items():
        ratio, own = row["ratio"], row["parameters_without_phi"]
        rows.append(
            [name, str(row["size"]), f"{row['parameters']:,}", "-" if own is None else f"{own:,}",
             f"{row['flops'] / 1e9:.2f}", f"{row['macs'] / 1e9:.2f}",
             f"{1e3 * row['seconds_p50']:.1f}", f"{1e3 * row['seconds_p95']:.1f}",
             f"{row['images_per_second']:.2f}", f"{row['peak_memory_mib']:.0f}",
             f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}",
             number(row.get("psnr"), 2)]
        )  # fmt: skip
    return markdown(head, rows)


def training_table(training: dict[str, Any]) -> str:
    shares = ("data", "forward", "backward", "optimizer")
    head = ["training step", "batch", "p50 ms", "p95 ms", "crops/s", *(f"{s} %" for s in shares),
            "kept MiB", "peak MiB", "ratio", "spread"]  # fmt: skip
    rows = []
    for name, row in training.items():
        ratio = row["ratio"]
        rows.append(
            [name, f"{row['batch']} x {row['crop_size']}²",
             f"{1e3 * row['seconds_p50']:.0f}", f"{1e3 * row['seconds_p95']:.0f}",
             f"{row['crops_per_second']:.1f}", *(f"{100 * row['share'][s]:.0f}" for s in shares),
             f"{row['kept_mib']:.1f}", f"{row['peak_memory_mib']:.0f}",
             f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"]
        )  # fmt: skip
    return markdown(head, rows)
