"""The files metrics.json and metrics.csv of a folder: written, and added to without a loss."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lgmnet.files import write_text
from lgmnet.report import finite

# What results must agree in to stand in one file.
SAME = ("network", "options", "ratio", "condition", "weights_sha256", "phi_sha256", "protocol",
        "color", "padding", "noise_std", "detector", "precision")  # fmt: skip
# Differences that different weights imply.
OF_WEIGHTS = {"network", "options", "ratio", "condition", "phi_sha256"}


def write_results(folder: Path, results: Mapping[str, Any], name: str = "metrics") -> None:
    """Write ``metrics.json`` and ``metrics.csv`` (one row per image)."""
    content = json.dumps(finite(results), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / f"{name}.json", content + "\n")
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    rows = [
        (dataset, image, values)
        for dataset, data in results["datasets"].items()
        for image, values in data["images"].items()
    ]
    errors = [key for key in ("nmse", "rmse") if any(key in values for _, _, values in rows)]
    columns = ["psnr", "ssim", *errors, "seconds"]
    writer.writerow(["dataset", "image", *columns])
    for dataset, image, values in rows:
        writer.writerow([dataset, image, *(values.get(column) for column in columns)])
    write_text(folder / f"{name}.csv", table.getvalue())


def add_results(folder: Path, results: Mapping[str, Any]) -> Path:
    """Add results to those in ``folder`` without losing any; return the JSON file.

    Test sets are added to the first ``metrics*.json`` with the same weights, Φ and rules (`SAME`).
    A test set with the same images is replaced. If there is no such file, a new one is named by
    what differs from ``metrics.json``: ``metrics.rounded.json`` (a protocol),
    ``metrics.replicate.json`` (a padding), ``metrics.bf16.json`` (a precision).
    """
    main = folder / "metrics.json"
    for path in [main, *sorted(folder.glob("metrics.*.json"))]:
        if (before := _before(path, results)) is not None:
            break
    else:
        path, before = _new_file(folder, _difference(read_results(main), results)), {}
    write_results(folder, {**results, "datasets": {**before, **results["datasets"]}}, path.stem)
    return path


def _new_file(folder: Path, name: str) -> Path:
    """``metrics.<name>.json``; with a number if there is such a file."""
    names = [name, *(f"{name}.{k}" for k in range(2, 1000))]
    return next(p for n in names if not (p := folder / f"metrics.{n}.json").exists())


def _difference(first: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """What differs from the results ``first``, as part of a file name.

    With the same weights and rules it is the number of images, because test sets differ. If
    ``first`` are no results, it is the protocol.
    """
    if "protocol" not in first:
        return str(results["protocol"])
    old, new = _rules(first), _rules(results)
    keys = [key for key in SAME if old.get(key) != new.get(key)]
    if "weights_sha256" in keys:
        keys = [key for key in keys if key not in OF_WEIGHTS]
    renamed = results.get("weights") != first.get("weights")
    words = ".".join(
        _word("weights", results["weights"])
        if key == "weights_sha256" and renamed
        else _word(key, new.get(key))
        for key in keys
    )
    return words or f"{sum(len(data['images']) for data in results['datasets'].values())}-images"


def _word(key: str, value: Any) -> str:
    """One rule in a file name: ``bf16``, ``noise0.01``, ``quantise2`` or ``weights-1a2b3c``."""
    if key == "detector":
        text = "-".join(f"{name}{number}" for name, number in (value or {}).items())
    elif key.endswith("_sha256"):
        text = f"{key.removesuffix('_sha256')}-{str(value)[:6]}"
    elif key in ("ratio", "noise_std"):
        text = f"{key.removesuffix('_std')}{value}"
    else:
        text = value if isinstance(value, str) else key
    return "".join(c for c in text if c.isalnum() or c in "_+-.") or f"no-{key}"


def read_results(path: Path) -> dict[str, Any]:
    """The content of a metrics.json; empty if there is no file, or it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _before(path: Path, results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The test sets in a file if ``results`` may be added to it, else None."""
    if not path.exists():
        return {}
    before = read_results(path)
    if "datasets" not in before or _rules(before) != _rules(results):
        return None
    for name in before["datasets"].keys() & results["datasets"].keys():
        old, new = before["datasets"][name], results["datasets"][name]
        lost = old["images"].keys() - new["images"].keys()
        if lost or _names(old) != _names(new):
            return None
    return before["datasets"]


def _rules(results: Mapping[str, Any]) -> dict[str, Any]:
    return {"precision": "fp32"} | {key: results[key] for key in SAME if key in results}


def _names(data: Mapping[str, Any]) -> set[str]:
    return data["images"].keys() | data.get("failed", {}).keys()
