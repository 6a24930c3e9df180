"""Find the results of several runs and group them: one row per method, runs with seeds together."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lgmnet import report
from lgmnet.project import PROJECT
from lgmnet.weights.loadable import settings_of
from lgmnet.weights.saved import find_weights

# What the results of one table must agree in, with the value of older files.
RULES = {"protocol": None, "color": "luma", "padding": "zeros", "noise_std": 0.0,
         "precision": "fp32"}  # fmt: skip


class Column(NamedTuple):
    """A test set, and the condition it was measured at: a ratio as a number, else a name."""

    dataset: str
    at: float | str

    def __str__(self) -> str:
        return f"{self.dataset} at {report.condition_title(self.at)}"


class Found(NamedTuple):
    """One metrics.json: its path, its content, and the config of its run (empty if unknown)."""

    path: Path
    results: Mapping[str, Any]
    config: Mapping[str, Any]


@dataclass
class Method:
    """One row: for every column the results of its runs, which differ in the seed only."""

    label: str
    cells: dict[Column, list[Found]] = field(default_factory=dict)

    def scores(self, column: Column, value: str) -> list[float]:
        """The mean over the images, one number per run; None of a file is left out."""
        runs = [run.results["datasets"][column.dataset] for run in self.cells.get(column, [])]
        return [run[value] for run in runs if run.get(value) is not None]

    def per_image(self, column: Column, value: str) -> dict[str, float]:
        """The score of each image, a mean over the runs. Images without a score are left out."""
        runs = [r.results["datasets"][column.dataset]["images"] for r in self.cells.get(column, [])]
        images = runs[0] if runs else {}
        scores = {name: [run[name].get(value) for run in runs] for name in images}
        return {n: sum(s) / len(s) for n, s in scores.items() if None not in s}


def collect(
    paths: Sequence[str], labels: Sequence[str] = (), protocol: str | None = None
) -> list[Method]:
    """The rows of a table, in the order of ``paths``.

    Args:
        paths: run folders, metrics.json files, or names of shipped weights.
        labels: one for each path; paths with one label are one row. By default the name of the
            folder, without the parts that name the ratio and the seed.
        protocol: the rules of scoring; by default those of the first file.

    Raises:
        ValueError: there are no results, they follow different rules, or results of one row
            differ in more than the seed.
    """
    if labels and len(labels) != len(paths):
        raise ValueError(f"{len(labels)} labels for {len(paths)} paths; give one for each path")
    methods: dict[str, Method] = {}
    first: Found | None = None
    for k, path in enumerate(paths):
        for found in _read_all(path, protocol or (first and first.results["protocol"])):
            first = first or found
            _same_rules(first, found)
            label = labels[k] if labels else default_label(found)
            _add(methods.setdefault(label, Method(label)), found)
    rows = list(methods.values())
    _same_images(rows)
    return rows


def columns(methods: Iterable[Method]) -> list[Column]:
    """All columns, by test set in the order of the files, then by condition."""
    found = list(dict.fromkeys(column for method in methods for column in method.cells))
    sets = list(dict.fromkeys(column.dataset for column in found))
    order = {column: k for k, column in enumerate(found)}

    def place(column: Column) -> tuple[int, bool, float]:
        named = isinstance(column.at, str)
        return sets.index(column.dataset), named, order[column] if named else float(column.at)

    return sorted(found, key=place)


def default_label(found: Found) -> str:
    """``lgm_net`` for ``runs/lgm_net_r0.10_seed2``."""
    name = found.path.parent.name
    if re.fullmatch(r"r0\.\d+", name):
        name = found.path.parent.parent.name
    return re.sub(r"_(r\d\.\d+(-\d\.\d+)?|seed\d+)", "", name) or name


def _read_all(path: str, protocol: str | None) -> list[Found]:
    place = _locate(path)
    files = [place] if place.is_file() else sorted(place.glob("**/metrics*.json"))
    found = [_read(file) for file in files]
    rule = protocol or (found[0].results["protocol"] if found else None)
    chosen = [run for run in found if run.results["protocol"] == rule]
    if not chosen:
        known = ", ".join(sorted({run.results["protocol"] for run in found}))
        has = f"only results of the protocols {known}, not of {rule}" if found else "no results"
        raise ValueError(f"{path} has {has}; score it with: python test.py {path} --data …")
    return chosen


def _locate(path: str) -> Path:
    for place in (Path(path), PROJECT / "checkpoints" / path):
        if place.exists():
            return place
    raise ValueError(f"there is no '{path}'; give a run folder, a metrics.json or shipped weights")


def _read(file: Path) -> Found:
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); score the run again") from None
    if not isinstance(results, dict) or not {"datasets", "protocol", "network"} <= results.keys():
        raise ValueError(f"{file} was not written by test.py: it names no data sets and protocol")
    configs = [folder / "config.yaml" for folder in (file.parent, file.parent.parent)]
    config = next((c for c in configs if c.is_file()), None)
    tree = yaml.safe_load(config.read_text(encoding="utf-8")) if config else {}
    return Found(file, results | _settings(config.parent if config else file.parent), tree)


def _settings(folder: Path) -> dict[str, Any]:
    """What the weights in a folder say of Φ and training data: older results do not say it."""
    if not any(folder.glob("*.safetensors")):
        return {}
    return settings_of(find_weights(folder))


def _same_rules(first: Found, found: Found) -> None:
    for rule, usual in RULES.items():
        values = [run.results.get(rule, usual) for run in (first, found)]
        if values[0] != values[1]:
            raise ValueError(
                f"one table needs one {rule}: it is {values[0]} in {first.path} and {values[1]} in "
                f"{found.path}; give the metrics.json files of one kind instead of folders"
            )


def _add(method: Method, found: Found) -> None:
    at = report.condition(found.results)
    for dataset in found.results["datasets"]:
        runs = method.cells.setdefault(Column(dataset, at), [])
        if any(run.path.resolve() == found.path.resolve() for run in runs):
            raise ValueError(f"{found.path} is given twice; give it once")
        if runs:
            _differ_in_seed(method.label, runs, found)
        runs.append(found)


def _differ_in_seed(label: str, runs: Sequence[Found], found: Found) -> None:
    """Two results in one cell must be runs of one config with different seeds."""
    other = "give each method its own label with --labels"
    if not (found.config and runs[0].config):
        raise ValueError(
            f"{runs[0].path} and {found.path} are both '{label}', and no config.yaml beside them "
            f"tells their seeds; {other}"
        )
    old, new = flat(runs[0].config), flat(found.config)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    keys = [key for key in keys if key != "training.seed" and not _follows_seed(key, old, new)]
    if keys:
        raise ValueError(
            f"{runs[0].path} and {found.path} are both '{label}' but differ in "
            f"{', '.join(keys)}; {other}"
        )
    seeds = [flat(run.config).get("training.seed") for run in runs]
    if new.get("training.seed") in seeds:
        raise ValueError(
            f"{found.path} and another run of '{label}' have the seed "
            f"{new.get('training.seed')}; {other}"
        )


def _follows_seed(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Weights that a run starts from may be those of its own seed."""
    names = {"training.start", "lora.backbone", "sampling.phi_init"}
    both = zip((old, new), (old.get(key), new.get(key)), strict=True)
    seedless = {
        re.sub(rf"(?<!\d){tree.get('training.seed')}(?!\d)", "", str(v)) for tree, v in both
    }
    return key in names and len(seedless) == 1


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A config with keys such as ``training.seed``."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{before}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def _same_images(methods: Sequence[Method]) -> None:
    """A test set must have the same images in all rows, or means cannot be compared."""
    known: dict[str, tuple[Path, set[str]]] = {}
    for method in methods:
        for column, runs in method.cells.items():
            for run in runs:
                images = set(run.results["datasets"][column.dataset]["images"])
                path, before = known.setdefault(column.dataset, (run.path, images))
                if images != before:
                    name = sorted(images ^ before)[0]
                    raise ValueError(
                        f"{column.dataset} has other images in {run.path} than in {path} (such as "
                        f"{name}); score both on the same images"
                    )
