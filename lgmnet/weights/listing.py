"""The list of shipped weights, without PyTorch: ``lgmnet test --list``."""

import json
from pathlib import Path
from typing import Any

from lgmnet.project import checkpoint_roots
from lgmnet.report import condition, condition_title, markdown, number
from lgmnet.weights.files import SUMS, read_sums


def listing() -> str:
    """A table of the weights in ``SHA256SUMS``: name, network, condition, PSNR by test set."""
    rows: dict[str, list[list[str]]] = {}
    for root in checkpoint_roots():
        for file in read_sums(root / SUMS):
            folder = (root / file).parent
            if (root / file).is_file() and folder.name not in rows:
                rows[folder.name] = _rows(folder)
    table = [row for name in sorted(rows) for row in rows[name]]
    return markdown(["weights", "network", "measured at", "PSNR in dB"], table)


def _rows(folder: Path) -> list[list[str]]:
    """One row per condition at which the weights in a folder were scored."""
    found = [json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("**/metrics.json")]
    return [
        [folder.name, results["network"], condition_title(condition(results)), _scores(results)]
        for results in sorted(found, key=condition)
    ] or [[folder.name, "-", "-", "not scored"]]


def _scores(results: dict[str, Any]) -> str:
    sets = results["datasets"].items()
    return ", ".join(f"{name} {number(data['psnr'], 2)}" for name, data in sets)
