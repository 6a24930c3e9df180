"""Reconstruct and score test sets: the content of metrics.json."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from lgmnet.config import EvaluationConfig
from lgmnet.data.copies import files_fingerprint
from lgmnet.data.datasets import NamedImage, TestSet
from lgmnet.data.images import read_pixels
from lgmnet.evaluation.rebuild import Result, Rules, adds_zeros, evaluate_image
from lgmnet.metrics import Score, find_protocol, mean_psnr, summarise
from lgmnet.models import SensingModel
from lgmnet.operators import SamplingConfig
from lgmnet.project import provenance
from lgmnet.runtime import Runtime
from lgmnet.speed.inference import prepare
from lgmnet.speed.memory import OUT_OF_MEMORY, out_of_memory, release_memory
from lgmnet.speed.precision import computed_precision, convolutions
from lgmnet.unfolding.low_rank import module_fingerprint
from lgmnet.weights.loadable import Loadable, settings_of


class Failure(NamedTuple):
    """An image that could not be scored, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How weights are scored: the rules, the condition, and how the network runs.

    Args:
        rules: rules of scoring. Rules with equal reconstructions share one reconstruction.
        condition: condition of the measurement, for a network with several conditions; by default
            the largest ratio, or the first mask.
        noise_std: standard deviation of the noise, in the unit of y; by default as in training.
        bits: bits of the detector, 0 for real numbers; by default as in training.
        consistency: also compare reconstructions with their measurements.
        pictures: padding of the reconstructions that are kept, where padding with zeros leaves a
            seam; scores do not change. By default kept reconstructions are those that are scored.
        fast, precision, max_memory: see `lgmnet.speed.inference.prepare`.
    """

    rules: Sequence[EvaluationConfig]
    condition: str | None = None
    noise_std: float | None = None
    bits: int | None = None
    consistency: bool = False
    pictures: str | None = None
    fast: bool = False
    precision: str = "fp32"
    max_memory: str | None = None

    def sampling(self, weights: Loadable) -> SamplingConfig:
        """How the images are measured: as the weights say, with the bits that were asked for."""
        own = weights.config.sampling
        return own if self.bits is None else dataclasses.replace(own, quantise=self.bits)


def score_sets(
    weights: Loadable,
    sets: Sequence[TestSet],
    how: Scoring,
    here: Runtime,
    keep: Callable[[str, Result], None] | None = None,
) -> list[dict[str, Any]]:
    """Reconstruct and score test sets with shipped or trained weights; one result for each rules.

    Several processes share the images of a set, and each returns the results of all images. An
    image that cannot be read or reconstructed is named in the result. The others are scored.

    Args:
        keep: called with the name of the set and each result under the first rules, to save its
            pixels.

    Raises:
        ValueError: no image could be scored, or settings do not fit together.
    """
    rules = [
        Rules(find_protocol(r.protocol), r.color, r.padding, how.consistency) for r in how.rules
    ]
    sampling = how.sampling(weights)
    condition = sampling.usual if how.condition is None else sampling.condition(how.condition)
    model = weights.load(condition)
    about = {
        **settings_of(weights),
        **sampling.describe(condition),
        "weights": weights.name,
        "weights_sha256": module_fingerprint(model),
        "phi_sha256": model.operator.fingerprint(),
    }
    model = prepare(model.to(here.device), how.fast, how.precision, how.max_memory)
    model.noise_std = sampling.noise_std if how.noise_std is None else how.noise_std
    model.detector = sampling.detector
    with convolutions(how.precision):
        scored = {
            images.name: here.gather(
                list(score_set(model, images, here, rules, keep, how.pictures))
            )
            for images in sets
        }
    _require_some(scored)
    same = {images.name: files_fingerprint(images.names, images.paths) for images in sets}
    return [
        {
            "protocol": each.protocol,
            **about,
            "color": each.color,
            "padding": each.padding,
            "noise_std": model.noise_std,
            **({"detector": changed} if (changed := model.detector.changed()) else {}),
            "precision": computed_precision(how.precision, here.device),
            **provenance(),
            "datasets": {
                images.name: {
                    "files_sha256": same[images.name],
                    **summary(scored[images.name], k, rules[k]),
                }
                for images in sets
            },
        }
        for k, each in enumerate(how.rules)
    ]


def score_set(
    model: SensingModel,
    images: TestSet,
    here: Runtime,
    rules: Sequence[Rules],
    keep: Callable[[str, Result], None] | None = None,
    pictures: str | None = None,
) -> Iterator[list[Result] | Failure]:
    """Score this process's share of a set: for each image one result per rules, without pixels."""
    share = images.share(here.rank, here.processes)
    hide = not here.is_main
    with tqdm(share.paths, images.name, unit="image", leave=False, disable=hide) as bar:
        for name, path in zip(share.names, bar, strict=True):
            try:
                image = NamedImage(name, read_pixels(path))
                results = evaluate_image(model, image, here, rules)
                if keep is not None:
                    keep(images.name, _picture(model, image, here, rules[0], results[0], pictures))
            except ValueError as error:
                reason = str(error)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason = OUT_OF_MEMORY
            else:
                # A slice of the pixels would keep all of them in memory.
                yield [result._replace(pixels=np.empty(0)) for result in results]
                continue
            release_memory()
            yield Failure(name, reason)


def _picture(
    model: SensingModel,
    image: NamedImage,
    here: Runtime,
    rules: Rules,
    scored: Result,
    padding: str | None,
) -> Result:
    """The result that is kept: the scored one, or another with this padding if zeros would show."""
    if padding is None or not adds_zeros(model, image, rules):
        return scored
    rules = rules._replace(padding=padding, consistency=False)
    return evaluate_image(model, image, here, [rules])[0]._replace(padding=padding)


def _require_some(scored: Mapping[str, list[list[Result] | Failure]]) -> None:
    outcomes = [outcome for outcomes in scored.values() for outcome in outcomes]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    if failures and len(failures) == len(outcomes):
        name, reason = failures[0]
        raise ValueError(
            f"none of the {len(outcomes)} images was scored; the first, {name}: {reason}"
        )


def results_folder(folder: Path, sampling: SamplingConfig, condition: str) -> Path:
    """Folder for the results of a condition: ``folder``; with several conditions, a subfolder."""
    several = sampling.resizes or len(sampling.conditions) > 1
    return folder / sampling.condition(condition) if several else folder


def summary(outcomes: Sequence[list[Result] | Failure], k: int, rules: Rules) -> dict[str, Any]:
    """One test set under the k-th rules: means, the values of each image, and what failed.

    ``psnr_images`` and ``ssim_images`` are the numbers of images in a mean, if not all. ``seams``
    is the mean over the images of several blocks, see `metrics.seams`.
    """
    results = [outcome[k] for outcome in outcomes if isinstance(outcome, list)]
    failed = {o.name: o.reason for o in outcomes if isinstance(o, Failure)}
    scores = [result.score for result in results]
    total = summarise(scores, rules.protocol)
    images = {r.name: {**_values(r.score, rules), "seconds": round(r.seconds, 4)} for r in results}
    means = _values(total, rules)
    counts = {"psnr_images": len(scores), "ssim_images": sum(s.has_ssim for s in scores)}
    if not rules.protocol.pooled:
        counts["psnr_images"] = sum(s.has_psnr for s in scores)
    means |= {key: count for key, count in counts.items() if count < len(outcomes)}
    consistent = [(r.name, r.consistency) for r in results if r.consistency is not None]
    for name, consistency in consistent:
        images[name] |= {"residual": consistency.residual, "psnr_on_y": consistency.psnr}
    if consistent:
        means["residual"] = float(np.mean([c.residual for _, c in consistent]))
        means["psnr_on_y"] = mean_psnr([c.psnr for _, c in consistent])
    seams = {r.name: r.seams for r in results if r.seams is not None and not math.isnan(r.seams)}
    for name, ratio in seams.items():
        images[name]["seams"] = round(ratio, 4)
    if seams:
        means["seams"] = float(np.mean(list(seams.values())))
    return {**means, "images": images, **({"failed": failed} if failed else {})}


def _values(score: Score, rules: Rules) -> dict[str, Any]:
    """The scores of the protocol, by name."""
    values = {"psnr": score.psnr, "ssim": score.ssim}
    added = {"nmse": rules.protocol.nmse, "rmse": rules.protocol.rmse}
    return values | {name: getattr(score, name) for name, asked in added.items() if asked}
