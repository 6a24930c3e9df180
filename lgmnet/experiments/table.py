"""The rows of an experiment's table: from finished runs, and from the table before."""

import json
from pathlib import Path
from typing import Any

from lgmnet import complexity
from lgmnet.config import ConfigError, load_config
from lgmnet.experiments.plan import Run
from lgmnet.operators import SamplingConfig
from lgmnet.weights.saved import find_weights

ABOUT_IMAGES = ("images", "files_sha256")  # not in the row of a run


def table_rows(
    runs: list[Run], before: list[dict[str, Any]], named: bool
) -> dict[str, dict[str, Any]]:
    """The rows of the table by folder of the run: of finished runs here, else those of ``before``.

    The choices are updated, because they may have new names. A measured speed is kept.
    """
    old = {row["command"]: row for row in before}
    rows = {}
    for run in runs:
        row = old.get(run.command, {}) | {"choices": run.choices}
        if done(run.folder):
            rows[run.folder.name] = row | result(run, named)
        elif run.command in old:
            rows[run.folder.name] = row
    return rows


def done(folder: Path) -> bool:
    """Whether a run has been trained and scored."""
    return (folder / "metrics.json").exists()


def result(run: Run, name_ratios: bool = False) -> dict[str, Any]:
    """The row of a finished run: its choices, its size, its scores."""
    folder = run.folder
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
    """Two columns from a ``benchmark.json``, relative to the first run: ``speed`` and ``latency``.

    Speed is crops per second of training, latency the time to reconstruct an image. Runs that
    differ in the seed only have the same of both, so it is enough to time one of them.

    Args:
        rows: rows of the table, by folder of the run.

    Raises:
        ConfigError: the benchmark has no training step of a run, nor of one with another seed.
    """
    networks = json.loads(path.read_text(encoding="utf-8"))["networks"]
    timed = {Path(name).parent.name: found for name, found in networks.items()}
    chosen = {name: tuple(row["choices"].values()) for name, row in rows.items()}
    found = {chosen[name]: timed[name] for name in rows if timed.get(name, {}).get("training")}
    missing = [name for name in rows if chosen[name] not in found]
    if missing:
        raise ConfigError(
            f"{path} has no training step of {missing[0]}; time the weights of all runs of one "
            "seed with scripts/benchmark.py runs/experiments/.../ema.safetensors --train <batch>"
        )
    for name, row in rows.items():
        own, first = found[chosen[name]], found[chosen[next(iter(rows))]]
        crops = [times["training"]["crops_per_second"] for times in (own, first)]
        row["speed"] = round(crops[0] / crops[1], 2)
        row["latency"] = round(own["seconds_p50"] / first["seconds_p50"], 2)
