"""Train and score every run of an experiment, and write its table.

An experiment is a YAML file: axes with choices, and the arguments of train.py that each choice
adds. `grid:` is the short form: keys of the config, each with a list of values. Every combination
is trained once for each seed into runs/experiments/, as by train.py, and its final weights are
scored. Finished runs are not repeated, and stopped runs continue. Several processes may work on one
experiment: start the same command again. Each run is locked while a process makes it.
Rows of other machines stay in the table: a row is identified by its command.

{seed} in an argument is the seed of the run. A network for a range is scored at every published
ratio in it; with `name_ratios: true` the test sets of all networks are called "Set11 at 10 %".
`fast: bf16` scores with `lgmnet.optimize_for_inference`. `validation` is the last value in the log.
"""

import argparse
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import complexity, report, runtime
from lgmnet.config import ConfigError, load_config
from lgmnet.conversion import read_yaml
from lgmnet.data.datasets import open_test_sets
from lgmnet.evaluation.scoring import Scoring, score_sets
from lgmnet.files import write_text
from lgmnet.operators import SamplingConfig
from lgmnet.project import PROJECT
from lgmnet.weights.saved import find_weights

EXAMPLES = """examples:
  python scripts/experiment.py configs/experiments/gin.yaml
  python scripts/experiment.py configs/experiments/gin.yaml & python scripts/experiment.py \\
      configs/experiments/gin.yaml    # two processes share the runs
  python scripts/experiment.py configs/experiments/gin.yaml --part 1/2    # 2/2 on another machine
"""
TRAIN = PROJECT / "train.py"
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
        words = "_".join([*self.choices.values(), f"seed{self.seed}"])
        return re.sub(r"[^\w.+-]+", "", words.replace(" ", "-").replace("⁺", "+"))

    @property
    def command(self) -> str:
        return shlex.join(["python", "train.py", self.config, *self.overrides])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path, help="YAML file under configs/experiments/")
    parser.add_argument(
        "--part", default="1/1", help="k/n: only every n-th run, starting with the k-th"
    )
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    parser.add_argument(
        "--finished",
        action="store_true",
        help="write the table of the finished runs, without training",
    )
    parser.add_argument(
        "--speed", type=Path, help="benchmark.json of the runs' weights, for a column `speed`"
    )
    parser.add_argument("--output", type=Path, help="default: docs/experiments/<name>.json")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_args()
    path = arguments.experiment
    try:
        experiment = read_experiment(path)
        runs = list(expand(experiment))
        chosen = runs[slice(*part(arguments.part))]
        if arguments.list:
            print("\n".join(run.command for run in chosen))
            return 0
        for run in () if arguments.finished else chosen:
            perform_alone(run, folder(path, run), experiment, arguments.device)
        output = arguments.output or Path("docs/experiments") / f"{path.stem}.json"
        before = json.loads(output.read_text(encoding="utf-8"))["runs"] if output.exists() else []
        found = table_rows(path, runs, before, experiment.get("name_ratios", False))
        if arguments.speed:
            add_speed(found, arguments.speed)
        rows = list(found.values())
        content = {"columns": experiment["columns"], "runs": rows}
        write_text(output, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print(report.experiment_table(content))
    except (ValueError, OSError) as error:
        print(f"experiment.py: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode  # train.py has said why
    print(f"{len(rows)} of {len(runs)} runs, written to {output}")
    return 0


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


def expand(experiment: dict[str, Any]) -> Iterator[Run]:
    """All combinations. A choice may name another config; later arguments win."""
    axes = experiment["axes"]
    for seed, combination in itertools.product(
        experiment["seeds"], itertools.product(*(axis.items() for axis in axes.values()))
    ):
        config, overrides = experiment["config"], list(experiment["overrides"])
        for _, words in combination:
            config = next((word for word in words if word.endswith(".yaml")), config)
            overrides += [word for word in words if not word.endswith(".yaml")]
        choices = dict(zip(axes, (name for name, _ in combination), strict=True))
        overrides = [word.replace("{seed}", str(seed)) for word in overrides]
        yield Run(choices, seed, config, [*overrides, f"training.seed={seed}"])


def part(text: str) -> tuple[int, None, int]:
    """``k/n`` as the slice of every n-th run, starting with the k-th."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part is '{text}', expected k/n with 1 <= k <= n, such as 1/2")
    return int(match[1]) - 1, None, int(match[2])


def folder(path: Path, run: Run) -> Path:
    return Path("runs/experiments") / path.stem / run.name


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


def perform(run: Run, folder: Path, experiment: dict[str, Any], device: str) -> None:
    """Train one run or resume it, and score its final weights on the test sets."""
    if done(folder):
        return
    if not (folder / "last.safetensors").exists():
        command = [sys.executable, str(TRAIN), run.config, *run.overrides, "evaluation.datasets=[]"]
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
    report.write_results(folder, scores | {"datasets": datasets})


def table_rows(
    path: Path, runs: list[Run], before: list[dict[str, Any]], named: bool
) -> dict[str, dict[str, Any]]:
    """The rows of the table by name of the run: of finished runs here, else those of ``before``.

    The choices are updated, because they may have new names. A measured speed is kept.
    """
    old = {row["command"]: row for row in before}
    rows = {}
    for run in runs:
        row = old.get(run.command, {}) | {"choices": run.choices}
        if done(folder(path, run)):
            rows[run.name] = row | result(run, folder(path, run), named)
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
            name: {key: value for key, value in values.items() if key != "images"}
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


if __name__ == "__main__":
    sys.exit(main())
