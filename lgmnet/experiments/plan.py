"""The runs of an experiment: read from its YAML file, named, and written as commands."""

import itertools
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lgmnet.config import ConfigError
from lgmnet.conversion import read_yaml

RUNS = Path("runs/experiments")
KEYS = {"config", "axes", "seeds", "overrides", "data", "columns"}
OPTIONAL = {"name_ratios", "fast", "grid", "across"}


class Run(NamedTuple):
    """One run: its experiment, the choice on each axis, the seed, the arguments of train.py."""

    experiment: str
    choices: dict[str, str]
    seed: int
    config: str
    overrides: list[str]

    @property
    def folder(self) -> Path:
        """Where it is trained: named by its choices. Those of a grid have their key before them."""
        words = [
            f"{axis.rpartition('.')[2]}-{choice}" if "." in axis else choice
            for axis, choice in self.choices.items()
        ]
        return RUNS / self.experiment / file_name("_".join([*words, f"seed{self.seed}"]))

    @property
    def command(self) -> str:
        """Its command, by which the table knows it. It does not name the folder."""
        return shlex.join(["python", "train.py", self.config, *self.overrides])


def read_experiment(path: Path) -> dict[str, Any]:
    """The YAML file, checked.

    Raises:
        ConfigError: no such file, or keys are missing or unknown.
    """
    tree = read_yaml(path)
    if "grid" in tree:
        tree["axes"] = tree.get("axes", {}) | grid_axes(path, tree["grid"])
    if tree.keys() - OPTIONAL != KEYS:
        raise ConfigError(f"{path} needs exactly these keys: {', '.join(sorted(KEYS))}")
    axes = tree["axes"]
    if not isinstance(axes, dict) or not all(isinstance(a, dict) for a in axes.values()):
        raise ConfigError(f"{path}: axes needs a name, and below it choices with their arguments")
    if "across" in tree and tree["across"] not in axes:
        raise ConfigError(
            f"{path}: across is '{tree['across']}', expected one of its axes: {', '.join(axes)}"
        )
    return tree


def grid_axes(path: Path, grid: Any) -> dict[str, dict[str, list[str]]]:
    """``{key: [values]}`` as axes: one choice per value, named by the value.

    Raises:
        ConfigError: a key has no list of different values.
    """
    keys: dict[str, Any] = grid if isinstance(grid, dict) and grid else {"grid": None}
    for key, values in keys.items():
        if not isinstance(values, list) or not values or len(set(map(str, values))) < len(values):
            raise ConfigError(
                f"{path}: {key} needs a list of different values, such as model.stages: [3, 5, 9]"
            )
    return {
        key: {str(value): [f"{key}={json.dumps(value)}"] for value in values}
        for key, values in keys.items()
    }


def expand(experiment: dict[str, Any], name: str, overrides: Sequence[str] = ()) -> Iterator[Run]:
    """All combinations. A choice may name another config; later arguments win.

    Args:
        name: name of the experiment, see `experiment_name`.
        overrides: arguments of train.py that all runs get after those of their choices.

    Raises:
        ConfigError: an override is not KEY=VALUE, or the choices or the seeds set its key.
    """
    axes = experiment["axes"]
    check_overrides(axes, overrides)
    for seed, combination in itertools.product(
        experiment["seeds"], itertools.product(*(axis.items() for axis in axes.values()))
    ):
        config, words = experiment["config"], list(experiment["overrides"])
        for _, chosen in combination:
            config = next((word for word in chosen if word.endswith(".yaml")), config)
            words += [word for word in chosen if not word.endswith(".yaml")]
        choices = dict(zip(axes, (choice for choice, _ in combination), strict=True))
        known = {"{seed}": str(seed), "{runs}": str(RUNS / name)}
        words = [replace_all(word, known) for word in (*words, *overrides)]
        yield Run(name, choices, seed, config, [*words, f"training.seed={seed}"])


def replace_all(text: str, known: dict[str, str]) -> str:
    for old, new in known.items():
        text = text.replace(old, new)
    return text


def check_overrides(axes: dict[str, Any], overrides: Sequence[str]) -> None:
    """Raise ConfigError for an override that is not KEY=VALUE or that undoes the choices."""
    chosen = {
        word.partition("=")[0]: f"axis '{name}'"
        for name, axis in axes.items()
        for words in axis.values()
        for word in words
    } | {"training.seed": "list 'seeds'"}
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise ConfigError(f"'{override}' is not KEY=VALUE, such as data.train=BSDS500")
        if key in chosen:
            raise ConfigError(
                f"{override}: the {chosen[key]} of the experiment sets {key}; copy the YAML file "
                "and change it there"
            )


def experiment_name(path: Path, overrides: Sequence[str] = ()) -> str:
    """The name of the file, and what all runs change: ``gin_data.train-BSDS500``."""
    return file_name("_".join([path.stem, *overrides]).replace("=", "-"))


def file_name(text: str) -> str:
    """``text`` as part of a path: letters, digits and the signs ``_ . + -``."""
    return re.sub(r"[^\w.+-]+", "", text.replace(" ", "-").replace("⁺", "+"))


def part(text: str) -> tuple[int, None, int]:
    """``k/n`` as the slice of every n-th run, starting with the k-th."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part is '{text}', expected k/n with 1 <= k <= n, such as 1/2")
    return int(match[1]) - 1, None, int(match[2])
