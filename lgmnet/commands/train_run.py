"""The work of ``lgmnet train``: train, then score the best weights."""

import argparse
import itertools
import sys
from pathlib import Path

from lgmnet import report, runtime
from lgmnet.config import Config, load_config
from lgmnet.costs.preflight import preflight
from lgmnet.data.datasets import TestSet, open_test_set
from lgmnet.data.images import ImageError
from lgmnet.evaluation.scoring import Scoring, results_folder, score_sets
from lgmnet.metrics import find_protocol
from lgmnet.papers.collect import flat
from lgmnet.results import write_results
from lgmnet.runtime import Runtime
from lgmnet.speed import memory
from lgmnet.training.phases import phases, train_phases
from lgmnet.training.saver import NonFiniteLoss
from lgmnet.weights.saved import Weights, find_weights


def run(arguments: argparse.Namespace) -> int:
    """Train as the arguments say; returns the exit code."""
    try:
        config = load_config(arguments.config, arguments.overrides, arguments.joined)
        find_protocol(config.evaluation.protocol)
        if not arguments.resume:  # a state contains its initial weights
            backbone = config.lora.backbone if config.lora else ""
            for name in filter(None, (config.training.start, backbone)):
                find_weights(name)  # so that an error comes before the preparations
        folder = arguments.output or default_folder(arguments, config)
        with runtime.start(arguments.device, config.training.timeout) as here:
            runtime.announce(here, sys.stdout)
            runs = phases(config, folder)
            if arguments.dry_run:
                return max(preflight(phase.config, here) for phase in runs)
            with runtime.exclusive(folder, here):
                saved = ("last.pt", "last.safetensors")
                begun = any((phase.folder / file).exists() for phase in runs for file in saved)
                if begun and not arguments.resume:
                    raise ValueError(taken(folder, config))
                stopped_by = train_phases(config, folder, here, arguments.resume)
                if not stopped_by:
                    score_run(config, folder, here)
    except NonFiniteLoss as error:
        raise ValueError(str(error)) from None
    except (RuntimeError, MemoryError) as error:
        if not (advice := memory.explain(error)):
            raise
        raise ValueError(advice) from None
    return 128 + stopped_by if stopped_by else 0


def default_folder(arguments: argparse.Namespace, config: Config) -> Path:
    """``runs/<config name>_<ratio or mask>``, with the names of the --with files in between."""
    names = [path.stem for path in (arguments.config, *arguments.joined)]
    return Path("runs") / "_".join([*names, config.sampling.label])


def taken(folder: Path, config: Config) -> str:
    """The message for a folder with a run: to continue it, or why another folder is needed."""
    numbered = (folder.with_name(f"{folder.name}_{k}") for k in itertools.count(2))
    another = f"choose another folder: --output {next(p for p in numbered if not p.exists())}"
    changes = changed_settings(folder / "config.yaml", config)
    if changes:
        return f"{folder} contains a run with other settings ({', '.join(changes)}); {another}"
    return f"{folder} already contains this run; add --resume to continue it, or {another}"


def changed_settings(saved: Path, config: Config) -> list[str]:
    """Up to three settings that differ from those of a run, as text; none if it has no config.

    The runs of adapters have two configs, so they are not compared.
    """
    if config.lora or not saved.is_file():
        return []
    old, new = flat(load_config(saved).as_dict()), flat(config.as_dict())
    if new["training.precision"] == "auto":  # it is resolved when a run begins
        old["training.precision"] = "auto"
    keys = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    return [f"{key} was {old.get(key)}, is {new.get(key)}" for key in sorted(keys)[:3]]


def score_run(config: Config, folder: Path, here: Runtime) -> None:
    """Score the best weights on the available test sets of the config, and write metrics.json.

    The processes share the images. The main process writes and prints.
    """
    sets: list[TestSet] = []
    for name in config.evaluation.datasets:
        try:
            sets.append(open_test_set(name, runtime.data_roots()))
        except ImageError as error:
            here.say(f"not scored: {error}")
    if sets:
        weights = find_weights(folder)
        assert isinstance(weights, Weights)
        here.say(f"{weights.path}:")
        for condition in config.sampling.conditions:
            how = Scoring(rules=[config.evaluation], condition=condition)
            [results] = score_sets(weights, sets, how, here)
            if here.is_main:
                write_results(results_folder(folder, config.sampling, condition), results)
            here.say(f"at {config.sampling.title(condition)}")
            here.say(report.comparison(results))
            for name, scores in results["datasets"].items():
                for image, reason in scores.get("failed", {}).items():
                    here.say(f"not scored: {name}/{image}: {reason}")
