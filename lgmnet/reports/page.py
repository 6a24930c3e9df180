"""Write ``report.html``: one file that needs no other file and makes no request."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lgmnet import complexity, report
from lgmnet.data.datasets import NamedImage, TestSet
from lgmnet.data.images import printable, read_pixels
from lgmnet.evaluation.rebuild import Rules
from lgmnet.evaluation.scoring import Scoring
from lgmnet.files import write_text
from lgmnet.metrics import find_protocol
from lgmnet.models import SensingModel
from lgmnet.models.watching import FIRST
from lgmnet.reports import pictures
from lgmnet.reports.examine import (
    Examined,
    as_json,
    describe_operator,
    examine,
    learned_values,
)
from lgmnet.runtime import Runtime
from lgmnet.weights.loadable import Loadable

LARGEST_PAGE = 20_000_000
# Quality of the pictures, and the number of images whose stages have pictures, best first.
DETAIL = ((pictures.LOSSLESS, 99), (pictures.LOSSLESS, 1), (90, 1), (60, 1))
# Digits of scores in the data of the page. The page rounds them once, when it shows them.
EXACT = 10
# Largest number of stages of one image that have pictures.
STAGE_PICTURES = 12


@dataclass(frozen=True)
class Entry:
    """Weights at one condition, and their scores.

    results: the content of ``metrics.json``.
    how: how they were scored; the first of its rules is that of ``results``.
    """

    weights: Loadable
    how: Scoring
    results: Mapping[str, Any]


def write_report(
    path: Path, entries: Sequence[Entry], sets: Sequence[TestSet], here: Runtime, count: int = 6
) -> str:
    """Write the page of one or several weights; return a line that says where.

    The pictures are those of the ``count`` images with the lowest PSNR, the mean over the weights.
    They are reconstructed again, so that the estimates of each stage are known.

    Args:
        sets: the test sets that all entries were scored on.

    Raises:
        ValueError: ``count`` is below 1, or the page would have more than 20 MB.
    """
    if count < 1:
        raise ValueError(f"the number of images with pictures is {count}, expected at least 1")
    labels = entry_labels(entries)
    models = [load_model(entry, here) for entry in entries]
    chosen = list(worst_images(entries, sets, count))
    found = []
    for dataset, image in chosen:
        shown = [
            examine(model, image, rules_of(entry), STAGE_PICTURES)
            for model, entry in zip(models, entries, strict=True)
        ]
        found.append((dataset, image.name, shown))
    about = [describe(*each) for each in zip(labels, entries, models, strict=True)]
    for quality, with_stages in DETAIL:
        examples = [
            example(dataset, name, labels, shown, quality, k < with_stages)
            for k, (dataset, name, shown) in enumerate(found)
        ]
        page = render(labels, entries, about, examples, quality)
        if len(page.encode()) <= LARGEST_PAGE:
            done = "replaced the page" if path.exists() else "written to"
            write_text(path, page)
            return f"{done} {printable(path)}"
    raise ValueError(
        f"the page would have more than {LARGEST_PAGE // 10**6} MB; show fewer than {count} images"
    )


def entry_labels(entries: Sequence[Entry]) -> list[str]:
    """A name for each entry; a number distinguishes equal ones."""
    names = []
    for entry in entries:
        sampling = entry.weights.config.sampling
        at = entry.how.condition or sampling.usual
        several = len(sampling.conditions) > 1 or sampling.resizes
        names.append(f"{entry.weights.name} {at}" if several else entry.weights.name)
    return [n if names.count(n) == 1 else f"{n} ({k + 1})" for k, n in enumerate(names)]


def load_model(entry: Entry, here: Runtime) -> SensingModel:
    """The plain network, in float32, with the noise and the detector that were scored."""
    model = entry.weights.load(entry.how.condition).to(here.device)
    model.noise_std = entry.results["noise_std"]
    model.detector = entry.how.sampling(entry.weights).detector
    return model


def rules_of(entry: Entry) -> Rules:
    first = entry.how.rules[0]
    return Rules(find_protocol(first.protocol), first.color, first.padding)


def worst_images(
    entries: Sequence[Entry], sets: Sequence[TestSet], count: int
) -> Iterator[tuple[str, NamedImage]]:
    """The images with the lowest PSNR, worst first; only those that every entry has scored."""
    ranked = []
    for images in sets:
        for name, path in zip(images.names, images.paths, strict=True):
            scores = [e.results["datasets"][images.name]["images"].get(name) for e in entries]
            if all(scores):
                values = [min(100.0, s["psnr"]) if s["psnr"] is not None else 0.0 for s in scores]
                ranked.append((statistics.fmean(values), images.name, name, path))
    for _, dataset, name, path in sorted(ranked)[:count]:
        yield dataset, NamedImage(name, read_pixels(path))


def example(
    dataset: str,
    name: str,
    labels: Sequence[str],
    found: Sequence[Examined],
    quality: int,
    with_stages: bool,
) -> dict[str, Any]:
    """One image for the page: its pictures, and what is written below them."""

    def picture(pixels: np.ndarray) -> str:
        return pictures.data_uri(pixels, quality)

    truth, signal = found[0].truth, found[0].signal
    shown = pictures.curve if signal else pictures.shown
    error = pictures.error_curve if signal else pictures.error_map
    views = []
    for label, one in zip(labels, found, strict=True):
        last = one.estimates[-1].pixels
        assert last is not None
        assert one.start.pixels is not None
        stages = [
            {"name": e.name, "number": e.number, "psnr": as_json(e.psnr, EXACT),
             "residual": as_json(e.residual, 6),
             "src": picture(shown(e.pixels))
                    if with_stages and e.pixels is not None else None}
            for e in one.estimates
        ]  # fmt: skip
        views.append({
            "label": label, "psnr": as_json(one.score.psnr, EXACT),
            "ssim": as_json(one.score.ssim, EXACT), "seams": as_json(one.seams),
            "start_psnr": as_json(one.start.psnr, EXACT),
            "start": picture(shown(one.start.pixels)), "image": picture(shown(last)),
            "error": picture(error(last, truth)), "stages": stages,
            "measured": measured(one, shown, picture), "first": first(one, shown, picture),
        })  # fmt: skip
    height, width = shown(truth).shape[:2]
    return {"dataset": dataset, "name": name, "height": height, "width": width, "signal": signal,
            "truth": picture(shown(truth)), "views": views}  # fmt: skip


def measured(
    one: Examined,
    shown: Callable[[np.ndarray], np.ndarray],
    picture: Callable[[np.ndarray], str],
) -> dict[str, Any]:
    """The picture of y, which has a size of its own."""
    pixels = shown(one.measured)
    height, width = pixels.shape[:2]
    return {"src": picture(pixels), "height": height, "width": width, "shape": one.shape}


def first(
    one: Examined,
    shown: Callable[[np.ndarray], np.ndarray],
    picture: Callable[[np.ndarray], str],
) -> dict[str, Any] | None:
    """The network's own start x⁰; None if it does not show one."""
    estimate = one.estimates[0]
    if estimate.name != FIRST or estimate.pixels is None:
        return None
    return {"src": picture(shown(estimate.pixels)), "psnr": as_json(estimate.psnr, EXACT)}


def describe(label: str, entry: Entry, model: SensingModel) -> dict[str, Any]:
    """What the page says about weights besides their scores."""
    phi = describe_operator(model.operator)
    low = pictures.LOWEST_POWER
    spectrum = None if phi.spectrum is None else pictures.colors(1 - phi.spectrum / low)
    tiles = None if phi.tiles is None else np.rint(255 * phi.tiles).astype(np.uint8)
    config = entry.weights.config
    return {
        "label": label,
        "parameters": complexity.parameters(model, frozen=True),
        "learned": {k: [as_json(v, 6) for v in vs] for k, vs in learned_values(model).items()},
        "operator": phi.title,
        "shows": model.operator.shows,
        "tiles": None if tiles is None else pictures.data_uri(tiles),
        "spectrum": None if spectrum is None else pictures.data_uri(spectrum),
        "singular": [as_json(value, 5) for value in phi.singular],
        "coherence": as_json(phi.coherence),
        "mean_coherence": as_json(phi.mean_coherence),
        "settings": settings(entry, config.as_dict()),
    }


def settings(entry: Entry, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything that the scores depend on, as rows of a table."""
    skipped = ("datasets", "options", "sampling")
    rows = [(k, str(v)) for k, v in entry.results.items() if k not in skipped and v != ""]
    for section in ("model", "sampling"):
        rows += [(f"{section}.{k}", str(v)) for k, v in config.get(section, {}).items()]
    return rows


def summary_rows(labels: Sequence[str], entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One row per weights and test set: measured, published, difference, and what differs."""
    rows = []
    for label, entry in zip(labels, entries, strict=True):
        results = report.finite(entry.results)
        for dataset, data in results["datasets"].items():
            known = report.comparable(results, dataset)
            seconds = [image["seconds"] for image in data["images"].values()]
            rows.append({
                "label": label, "dataset": dataset, "images": len(data["images"]),
                "failed": data.get("failed", {}), "psnr": data["psnr"], "ssim": data["ssim"],
                "seams": data.get("seams"), "known": known,
                "gap": data["psnr"] - known.psnr if known and data["psnr"] is not None else None,
                "differences": report.differences(results, known) if known else "",
                "seconds": statistics.fmean(seconds) if seconds else None,
            })  # fmt: skip
    return rows


def image_rows(labels: Sequence[str], entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One row per image with the scores of all weights; None where one is missing."""
    rows: dict[tuple[str, str], list[Any]] = {}
    for k, entry in enumerate(entries):
        for dataset, data in report.finite(entry.results)["datasets"].items():
            for image, scores in data["images"].items():
                rows.setdefault((dataset, image), [None] * len(labels))[k] = scores
    return [{"dataset": d, "image": i, "scores": scores} for (d, i), scores in rows.items()]


def render(
    labels: Sequence[str],
    entries: Sequence[Entry],
    about: Sequence[Mapping[str, Any]],
    examples: Sequence[Mapping[str, Any]],
    quality: int,
) -> str:
    """The page as HTML."""
    first = entries[0].results
    data = {"examples": examples, "about": about, "largest_error": pictures.LARGEST_ERROR / 255}
    return fill(
        "report.html",
        labels=labels,
        data=data,
        summary=summary_rows(labels, entries),
        images=image_rows(labels, entries),
        about=about,
        examples=examples,
        samples=pictures.LINES * pictures.LINE,
        signals=any(example["signal"] for example in examples),
        shows=dict.fromkeys(one["shows"] for one in about),
        first=first,
        protocol=dataclasses.asdict(find_protocol(first["protocol"])),
        bar=pictures.color_bar(),
        largest=pictures.LARGEST_ERROR / 255,
        lowest=pictures.LOWEST_POWER,
        quality=None if quality == pictures.LOSSLESS else quality,
    )


def fill(template: str, **values: Any) -> str:
    """A template of this folder with values. All text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    folder = resources.files("lgmnet.reports")
    engine = Environment(
        loader=PackageLoader("lgmnet.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters["number"] = number
    parts = {
        name: folder.joinpath("templates", f"page.{name}").read_text(encoding="utf-8")
        for name in ("css", "js")
    }
    return engine.get_template(template).render(**values, **parts)


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A number with fixed digits; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "−")
