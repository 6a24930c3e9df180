"""The work of ``lgmnet benchmark``."""

import argparse
import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lgmnet import report, runtime
from lgmnet.build import build_model
from lgmnet.config import load_config
from lgmnet.costs.benchmark import Conditions, Subject, benchmark, inference
from lgmnet.files import write_figure, write_text, write_whole
from lgmnet.runtime import Runtime
from lgmnet.weights.saved import find_weights

PLAIN: dict[str, Any] = {
    "precision": "fp32",
    "channels_last": False,
    "compile": False,
    "cuda_graphs": False,
    "recompute": False,
}


def run(arguments: argparse.Namespace) -> int:
    """Measure as the arguments say, print and write the tables; returns the exit code."""
    with runtime.start(arguments.device) as here:
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        runtime.announce(here, sys.stderr)
        subjects = [open_subject(name) for name in arguments.networks]
        subjects += [open_foreign(name) for name in arguments.compare]
        check_names(subjects)
        conditions = Conditions(
            **{f.name: getattr(arguments, f.name) for f in dataclasses.fields(Conditions)}
        )
        scores = read_scores(subjects, arguments.metrics, arguments.dataset)
        results = benchmark(subjects, conditions, here)
        for name, psnr in scores.items():
            results["networks"][name]["psnr"] = psnr
        if arguments.profile:
            write_traces(subjects, arguments, here)
    write(results, arguments)
    return 0


def write(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Write benchmark.json, benchmark.md and, with scores, benchmark.png; print the tables."""
    text = report.benchmark_tables(results)
    content = json.dumps(report.finite(results), indent=2)
    write_text(arguments.output / "benchmark.json", content)
    write_text(arguments.output / "benchmark.md", text + "\n")
    if arguments.metrics:
        plot(results, arguments.dataset, arguments.output / "benchmark.png")
    print(text, f"\nwritten to {arguments.output}")


def open_subject(name: str) -> Subject:
    """A config with changes, or weights."""
    plain = name.startswith("plain:")
    path, *changes = re.split(r",(?=[\w.]+=)", name.removeprefix("plain:"))
    if path.endswith((".yaml", ".yml")):
        config = load_config(Path(path), changes)
        model = build_model(config)
    else:
        if changes:
            raise ValueError(f"{name}: only a config takes changes; {path} names weights")
        weights = find_weights(path)
        config, model = weights.config, weights.load()
    if plain:
        training = dataclasses.replace(config.training, **PLAIN)
        config = dataclasses.replace(config, training=training)
        model.operator.gathers = False  # type: ignore[assignment]
    return Subject(name, model, config)


def open_foreign(name: str) -> Subject:
    """``PATH:CLASS``, made without arguments; it maps ``(batch, 1, H, W)`` to a tensor."""
    path, _, kind = name.rpartition(":")
    spec = importlib.util.spec_from_file_location("foreign", path) if path else None
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ValueError(f"--compare {name}: expected PATH.py:CLASS of an existing file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).parent))  # its own imports
    spec.loader.exec_module(module)
    found = getattr(module, kind, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"--compare {name}: {path} has no nn.Module named '{kind}'")
    try:
        return Subject(name, found())
    except TypeError as error:
        raise ValueError(f"--compare {name}: {kind}() without arguments fails: {error}") from None


def check_names(subjects: list[Subject]) -> None:
    names = [subject.name for subject in subjects]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is given twice; each network is timed once")


def write_traces(subjects: list[Subject], arguments: argparse.Namespace, here: Runtime) -> None:
    """A Chrome trace of one inference of each network; open it in chrome://tracing."""
    for number, s in enumerate(subjects):
        run = inference(s, arguments.size, arguments.batch, here)
        with torch.profiler.profile(record_shapes=True) as profile:
            run()
            here.synchronise()
        path = arguments.output / f"trace_{number}.json"
        write_whole(path, lambda temporary: profile.export_chrome_trace(str(temporary)))


def read_scores(subjects: list[Subject], files: list[Path], dataset: str) -> dict[str, float]:
    """PSNR of ``dataset`` from metrics.json files, by name of the network.

    Raises:
        ValueError: a file is not a metrics.json, or its network is not timed here.
    """
    timed = {weights_name(subject.name): subject for subject in subjects}
    found = {}
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            scored, ratio, scores = content["weights"], content["ratio"], content["datasets"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{file} is not a metrics.json of test.py") from None
        if scored not in timed:
            raise ValueError(f"{file} scores '{scored}', which is not among the networks given")
        subject = timed[scored]
        if subject.config and (highest := subject.config.block_sampling.limits[-1]) != ratio:
            raise ValueError(
                f"{file} scores '{scored}' at {ratio:g}, but a network for a range is timed at its "
                f"highest ratio, {highest:g}"
            )
        if dataset not in scores:
            raise ValueError(f"{file} has no {dataset}; it has {', '.join(scores)}")
        found[subject.name] = scores[dataset]["psnr"]
    return found


def weights_name(given: str) -> str:
    """The name in test.py: that of ``checkpoints/x/model.safetensors`` and of ``x`` is x."""
    name = given.removeprefix("plain:")
    if any(part in name for part in (".py:", ".yaml", ".yml")):
        return name
    return find_weights(name).name


def plot(results: dict[str, Any], dataset: str, path: Path) -> None:
    """Plot PSNR against parameters and against FLOPs; the area of a bubble shows the other one."""
    from matplotlib.figure import Figure

    scored = {n: r for n, r in results["networks"].items() if r.get("psnr") is not None}
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, x, area in ((left, "parameters", "flops"), (right, "flops", "parameters")):
        largest = max(row[area] for row in scored.values())
        for name, row in scored.items():
            bubble = 40 + 1500 * row[area] / largest
            axes.scatter(row[x], row["psnr"], s=bubble, alpha=0.5)
            axes.annotate(weights_name(name), (row[x], row["psnr"]), fontsize=8, ha="center")
        sides = " or ".join(str(side) for side in sorted({row["size"] for row in scored.values()}))
        axes.set(xscale="log", xlabel=x if x == "parameters" else f"FLOPs at a side of {sides}")
        axes.margins(0.25)
    left.set_ylabel(f"PSNR on {dataset} (dB)")
    write_figure(path, figure, dpi=150)
