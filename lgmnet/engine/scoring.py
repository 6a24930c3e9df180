"""Test sets -> the content of metrics.json."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lgmnet.config import EvaluationConfig, SamplingConfig, ratio_label
from lgmnet.data.datasets import TestSet
from lgmnet.engine.adapters import Adapted
from lgmnet.engine.building import chosen_options
from lgmnet.engine.checkpoint import Weights
from lgmnet.engine.evaluation import Result, Rules, evaluate
from lgmnet.engine.log import provenance
from lgmnet.engine.runtime import Runtime
from lgmnet.engine.untrained import Untrained
from lgmnet.metrics import find_protocol, summarise
from lgmnet.models import SensingModel


def score_sets(
    weights: Weights | Untrained | Adapted,
    sets: Iterable[TestSet],
    settings: EvaluationConfig,
    here: Runtime,
    noise_std: float | None = None,
    consistency: bool = False,
    keep: Callable[[str, Result], None] | None = None,
    ratio: float | None = None,
    prepare: Callable[[SensingModel], SensingModel] = lambda model: model,
) -> dict[str, Any]:
    """Rebuild and score test sets with shipped or trained weights.

    Several processes deal out the images of a set, and each returns the results of all.

    Args:
        noise_std: measurement noise, in the unit of y; by default as in training.
        consistency: also compare with the measurement.
        keep: receives the name of the set and each result, to save its pixels.
        ratio: of the measurement, for a network that serves a range.
        prepare: rewrites the model before it runs.
    """
    rules = Rules(find_protocol(settings.protocol), settings.color, settings.padding, consistency)
    sampling = weights.config.sampling
    ratio = sampling.limits[1] if ratio is None else ratio
    model = prepare(weights.load(ratio).to(here.device))
    model.noise_std = sampling.noise_std if noise_std is None else noise_std
    datasets = {}
    for images in sets:
        results = []
        share = images.share(here.rank, here.processes)
        samples = tqdm(
            share,
            desc=images.name,
            unit="image",
            leave=False,
            disable=not here.is_main,
        )
        for result in evaluate(model, samples, here, rules):
            if keep is not None:
                keep(images.name, result)
            results.append(result._replace(pixels=result.pixels[:0]))  # scored: no longer needed
        datasets[images.name] = summary(here.gather(results), rules)
    return {
        "protocol": settings.protocol,
        **settings_of(weights),
        "ratio": ratio,
        "weights": weights.name,
        "phi_sha256": model.operator.fingerprint(),
        "color": settings.color,
        "padding": settings.padding,
        "noise_std": model.noise_std,
        **provenance(),
        "datasets": datasets,
    }


def settings_of(weights: Weights | Untrained | Adapted) -> dict[str, Any]:
    """What decides whether scores may be compared: network, and where it was trained Φ and data.

    ``options`` are those that are not the defaults.
    """
    config = weights.config
    found = {"network": config.model.name, "options": chosen_options(config)}
    if "step" not in weights.metadata:  # imported or not trained: the config does not say how
        return found
    names = ("block_size", "phi", "phi_init")
    sampling = {name: getattr(config.sampling, name) for name in names}
    return {
        **found,
        "sampling": sampling,
        "training_data": weights.metadata.get("training_data", ""),
    }


def results_folder(folder: Path, sampling: SamplingConfig, ratio: float) -> Path:
    """Where results at a ratio go: one folder each below ``folder`` for a range, else itself."""
    return folder / ratio_label(ratio) if sampling.is_range else folder


def summary(results: list[Result], rules: Rules) -> dict[str, Any]:
    """One test set: means, and the values of each image."""
    total = summarise([result.score for result in results], rules.protocol)
    images = {
        r.name: {"psnr": r.score.psnr, "ssim": r.score.ssim, "seconds": round(r.seconds, 4)}
        for r in results
    }
    means = {"psnr": total.psnr, "ssim": total.ssim}
    for r in results:
        if r.consistency is not None:
            images[r.name] |= {"residual": r.consistency.residual, "psnr_on_y": r.consistency.psnr}
    if rules.consistency:
        for key in ("residual", "psnr_on_y"):
            means[key] = sum(image[key] for image in images.values()) / len(images)
    return {**means, "images": images}
