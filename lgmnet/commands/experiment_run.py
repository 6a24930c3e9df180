"""The work of ``lgmnet experiment``."""

import argparse
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from lgmnet import complexity, report, runtime
from lgmnet.config import ConfigError, load_config
from lgmnet.conversion import read_yaml
from lgmnet.data.datasets import open_test_sets
from lgmnet.evaluation.scoring import Scoring, score_sets
from lgmnet.files import write_text
from lgmnet.operators import SamplingConfig
from lgmnet.project import PROJECT
from lgmnet.results import write_results
from lgmnet.weights.saved import find_weights

RUNS = Path("runs/experiments")
ABOUT_IMAGES = ("images", "files_sha256")  # not in the row of a run
KEYS = {"config", "axes", "seeds", "overrides", "data", "columns"}
OPTIONAL = {"name_ratios", "fast", "grid"}


class Run(NamedTuple):
    """One run: the choice on each axis, the seed, and the arguments of train.py."""

    choices: dict[str, str]
    seed: int
    config: str
    overrides: list[str]

    @property
    def name(self) -> str:
        return file_name("_".join([*self.choices.values(), f"seed{self.seed}"]))

    @property
    def command(self) -> str:
        return shlex.join(["python", "train.py", self.config, *self.overrides])


def run(arguments: argparse.Namespace) -> int:
    """List, train, score or tabulate, as the arguments say; returns the exit code."""
    experiment = read_experiment(arguments.experiment)
    name = experiment_name(arguments.experiment, arguments.overrides)
    runs = list(expand(experiment, name, arguments.overrides))
    chosen = runs[slice(*part(arguments.part))]
    if arguments.list:
        program = "lgmnet train" if arguments.prog == "lgmnet experiment" else "python train.py"
        print("\n".join(run.command.replace("python train.py", program, 1) for run in chosen))
        return 0
    try:
        for run in () if arguments.finished else chosen:
            perform_alone(run, folder(name, run), experiment, arguments.device)
    except subprocess.CalledProcessError as error:
        return error.returncode  # train.py has said why
    rows, output = write_table(experiment, name, runs, arguments)
    print(f"{rows} of {len(runs)} runs, written to {output}")
    return 0


def write_table(
    experiment: dict[str, Any], name: str, runs: list[Run], arguments: argparse.Namespace
) -> tuple[int, Path]:
    """Write and print the table of all finished runs.

    Returns:
        The number of its rows, and the file.
    """
    place = "results" if arguments.overrides else "docs"
    output = arguments.output or Path(place, "experiments", f"{name}.json")
    before = json.loads(output.read_text(encoding="utf-8"))["runs"] if output.exists() else []
    found = table_rows(name, runs, before, experiment.get("name_ratios", False))
    if arguments.speed:
        add_speed(found, arguments.speed)
    content = {"columns": experiment["columns"], "runs": list(found.values())}
    write_text(output, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(report.experiment_table(content))
    return len(found), output


def experiment_name(path: Path, overrides: Sequence[str] = ()) -> str:
    """The name of the file, and what all runs change: ``gin_data.train-BSDS500``."""
    return file_name("_".join([path.stem, *overrides]).replace("=", "-"))


def file_name(text: str) -> str:
    """``text`` as part of a path: letters, digits and the signs ``_ . + -``."""
    return re.sub(r"[^\w.+-]+", "", text.replace(" ", "-").replace("⁺", "+"))


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
        yield Run(choices, seed, config, [*words, f"training.seed={seed}"])


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


def part(text: str) -> tuple[int, None, int]:
    """``k/n`` as the slice of every n-th run, starting with the k-th."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part is '{text}', expected k/n with 1 <= k <= n, such as 1/2")
    return int(match[1]) - 1, None, int(match[2])


def folder(name: str, run: Run) -> Path:
    return RUNS / name / run.name


def done(folder: Path) -> bool:
    return (folder / "metrics.json").exists()


def perform_alone(run: Run, folder: Path, experiment: dict[str, Any], device: str) -> None:
    """`perform`, unless another process makes this run. A lock ends with its process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            perform(run, folder, experiment, device)
    except Timeout:
        print(f"{folder}: another process makes this run", flush=True)


def train_program() -> list[str]:
    """How a process is started that trains: train.py of a clone, or the installed package."""
    file = PROJECT / "train.py"
    return [sys.executable, *([str(file)] if file.is_file() else ["-m", "lgmnet", "train"])]


def perform(run: Run, folder: Path, experiment: dict[str, Any], device: str) -> None:
    """Train one run or resume it, and score its final weights on the test sets."""
    if done(folder):
        return
    if not (folder / "last.safetensors").exists():
        command = [*train_program(), run.config, *run.overrides, "evaluation.datasets=[]"]
        resume = ["--resume"] if any(folder.rglob("last.pt")) else []
        print(folder, flush=True)
        base = ["--output", str(folder), "--device", device]
        subprocess.run([*command, *base, *resume], check=True)
    # No selection: the final weight average if the run has one, else the last weights.
    final = next(p for p in (folder / "ema.safetensors", folder / "last.safetensors") if p.exists())
    weights = find_weights(final)
    sets = open_test_sets(experiment["data"], runtime.data_roots())
    sampling = weights.config.sampling
    fast = experiment.get("fast")
    datasets: dict[str, Any] = {}
    for condition in sampling.conditions:
        how = Scoring(
            rules=[weights.config.evaluation],
            condition=condition,
            consistency=True,
            fast=bool(fast),
            precision=fast or "fp32",
        )
        with runtime.start(device) as here:
            [scores] = score_sets(weights, sets, how, here)
        for name, values in scores["datasets"].items():
            named = f"{name} at {sampling.title(condition)}"
            datasets[named if experiment.get("name_ratios") else name] = values
    write_results(folder, scores | {"datasets": datasets})


def table_rows(
    name: str, runs: list[Run], before: list[dict[str, Any]], named: bool
) -> dict[str, dict[str, Any]]:
    """The rows of the table by name of the run: of finished runs here, else those of ``before``.

    The choices are updated, because they may have new names. A measured speed is kept.
    """
    old = {row["command"]: row for row in before}
    rows = {}
    for run in runs:
        row = old.get(run.command, {}) | {"choices": run.choices}
        if done(folder(name, run)):
            rows[run.name] = row | result(run, folder(name, run), named)
        elif run.command in old:
            rows[run.name] = row
    return rows


def result(run: Run, folder: Path, name_ratios: bool = False) -> dict[str, Any]:
    """The row of a finished run: its choices, its size, its scores."""
    phases = [load_config(path) for path in folder.rglob("config.yaml")]
    model = find_weights(folder).load()
    side = 8 * phases[0].block_sampling.block_size
    scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["datasets"]
    return {
        "choices": run.choices,
        "seed": run.seed,
        "command": run.command,
        "crops": sum(phase.training.steps * phase.training.batch_size for phase in phases),
        "parameters": complexity.parameters(model.network, frozen=True),
        "gflops": round(complexity.cost(model, side, side).flops / 1e9, 3),
        "scores": validation(folder, phases[0].sampling if name_ratios else None)
        | {
            name: {key: value for key, value in values.items() if key not in ABOUT_IMAGES}
            for name, values in scores.items()
        },
    }


def validation(folder: Path, named: SamplingConfig | None = None) -> dict[str, dict[str, float]]:
    """The scores of the final weights on the validation images, if the run has any.

    Args:
        named: whose conditions the sets are named by.
    """
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found = [line for line in map(json.loads, lines) if line["kind"] == "validation"]
    if not found:
        return {}
    last = found[-1]
    if named is None:
        return {"validation": {key: last[key] for key in ("psnr", "ssim")}}
    several = len(named.conditions) > 1
    return {
        f"validation at {named.title(condition)}": {
            "psnr": last[f"psnr_{condition}" if several else "psnr"]
        }
        for condition in named.conditions
    }


def add_speed(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Crops per second of training, relative to the first run, measured by scripts/benchmark.py.

    Args:
        rows: rows of the table, by name of the run.

    Raises:
        ValueError: the benchmark has no training step of a run.
    """
    networks = json.loads(path.read_text(encoding="utf-8"))["networks"]
    steps = {Path(name).parent.name: found.get("training") for name, found in networks.items()}
    missing = [name for name in rows if not steps.get(name)]
    if missing:
        raise ConfigError(
            f"{path} has no training step of {missing[0]}; time the weights of all runs with "
            "scripts/benchmark.py runs/experiments/.../ema.safetensors --train <batch>"
        )
    speeds = {name: steps[name]["crops_per_second"] for name in rows}
    for name, row in rows.items():
        row["speed"] = round(speeds[name] / next(iter(speeds.values())), 2)
