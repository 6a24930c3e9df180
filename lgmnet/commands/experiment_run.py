"""The work of ``lgmnet experiment``."""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lgmnet import report, runtime
from lgmnet.data.datasets import open_test_sets
from lgmnet.evaluation.scoring import Scoring, score_sets
from lgmnet.experiments.plan import Run, expand, experiment_name, part, read_experiment
from lgmnet.experiments.table import add_speed, done, table_rows
from lgmnet.files import write_text
from lgmnet.project import PROJECT
from lgmnet.results import write_results
from lgmnet.weights.saved import find_weights


def run(arguments: argparse.Namespace) -> int:
    """List, train, score or tabulate, as the arguments say; returns the exit code."""
    experiment = read_experiment(arguments.experiment)
    name = experiment_name(arguments.experiment, arguments.overrides)
    runs = list(expand(experiment, name, arguments.overrides))
    chosen = runs[slice(*part(arguments.part))]
    if arguments.list:
        program = "lgmnet train" if arguments.prog == "lgmnet experiment" else "python train.py"
        for run in chosen:
            command = run.command.replace("python train.py", program, 1)
            print(f"{command} --output {shlex.quote(str(run.folder))}")
        return 0
    try:
        for run in () if arguments.finished else chosen:
            perform_alone(run, experiment, arguments.device)
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
    found = table_rows(runs, before, experiment.get("name_ratios", False))
    if arguments.speed:
        add_speed(found, arguments.speed)
    shape = {key: experiment[key] for key in ("columns", "across") if key in experiment}
    content = shape | {"runs": list(found.values())}
    write_text(output, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(report.experiment_table(content))
    return len(found), output


def perform_alone(run: Run, experiment: dict[str, Any], device: str) -> None:
    """`perform`, unless another process makes this run. A lock ends with its process."""
    folder = run.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            perform(run, experiment, device)
    except Timeout:
        print(f"{folder}: another process makes this run", flush=True)


def train_program() -> list[str]:
    """How a process is started that trains: train.py of a clone, or the installed package."""
    file = PROJECT / "train.py"
    return [sys.executable, *([str(file)] if file.is_file() else ["-m", "lgmnet", "train"])]


def perform(run: Run, experiment: dict[str, Any], device: str) -> None:
    """Train one run or resume it, and score its final weights on the test sets."""
    folder = run.folder
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
