"""The work of ``lgmnet test``: score weights, write tables and pictures."""

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

from lgmnet import report, runtime
from lgmnet.data.copies import files_fingerprint
from lgmnet.data.datasets import TestSet, open_test_sets
from lgmnet.data.images import ImageError, printable, write_reconstruction
from lgmnet.data.stacks import container
from lgmnet.data.values import from_protocol_scale
from lgmnet.evaluation.rebuild import Result
from lgmnet.evaluation.scoring import Scoring, results_folder, score_sets
from lgmnet.metrics import find_protocol
from lgmnet.operators.ratios import ratio_label
from lgmnet.reports.page import Entry, write_report
from lgmnet.results import add_results, read_results
from lgmnet.runtime import Runtime
from lgmnet.speed import memory
from lgmnet.weights.adapters import Adapted
from lgmnet.weights.loadable import Loadable
from lgmnet.weights.own_phi import WithOwnPhi
from lgmnet.weights.saved import find_weights
from lgmnet.weights.snapshot import WithMask


def run(arguments: argparse.Namespace) -> int:
    """Score as the arguments say; returns the exit code."""
    try:
        return score_weights(arguments)
    except (RuntimeError, MemoryError) as error:
        if not memory.out_of_memory(error):
            raise
        raise ValueError(memory.OUT_OF_MEMORY) from None


def asked_weights(arguments: argparse.Namespace) -> Loadable:
    """The weights that the arguments name, with the user's adapters and Φ."""
    weights: Loadable = find_weights(arguments.weights, arguments.overrides)
    if arguments.adapters:
        weights = Adapted(weights, arguments.adapters, arguments.merge or "on_the_fly")
    elif arguments.merge:
        raise ValueError(f"--merge {arguments.merge} needs --adapters; give an adapters file")
    if arguments.column_major and not arguments.matrix:
        raise ValueError("--column-major needs --matrix; give the file of your Φ")
    if arguments.matrix and (arguments.ratio or arguments.at):
        raise ValueError("the ratio is that of --matrix; leave out --ratio and --at")
    if arguments.matrix:
        own = WithOwnPhi(weights, arguments.matrix, arguments.column_major)
        trained = "the Φ" if own.known else "another Φ than that"
        print(f"{arguments.matrix} is {trained} of {weights.name}", file=sys.stderr)
        return own
    if arguments.mask:
        return WithMask(weights, arguments.mask)
    return weights


def score_weights(arguments: argparse.Namespace) -> int:
    """Score all conditions and protocols; returns the exit code."""
    weights = asked_weights(arguments)
    # Defaults come from the config of the weights.
    asked = {k: getattr(arguments, k) for k in ("color", "padding")}
    asked = {k: v for k, v in asked.items() if v is not None}
    own = dataclasses.replace(weights.config.evaluation, **asked)
    protocols = dict.fromkeys(arguments.protocol or [own.protocol])
    how = Scoring(
        rules=[dataclasses.replace(own, protocol=name) for name in protocols],
        noise_std=arguments.noise_std,
        bits=arguments.bits,
        consistency=arguments.consistency,
        pictures=None if arguments.padding else "replicate",
        fast=arguments.fast,
        precision=arguments.precision,
        max_memory=arguments.max_memory,
    )
    for name in protocols:
        find_protocol(name)
    sets = open_test_sets(arguments.data, runtime.data_roots())
    output = arguments.output or Path("results") / weights.name
    sampling = weights.config.sampling
    asked_for = [*map(ratio_label, arguments.ratio or ()), *(arguments.at or ())]
    conditions = asked_for or sampling.conditions
    folders = {c: results_folder(output, sampling, c) for c in conditions}
    for folder in folders.values():
        check_same_sets(folder, sets)
    if arguments.save_images:
        check_saved(sets, list(folders.values()))
    with runtime.start(arguments.device) as here:
        runtime.announce(here, sys.stderr)
        failures = [
            score(
                weights,
                sets,
                dataclasses.replace(how, condition=condition),
                here,
                folder,
                arguments.save_images,
                arguments.report,
            )
            for condition, folder in folders.items()
        ]
    return 1 if any(failures) else 0


def saved_path(folder: Path, dataset: str, image: str) -> Path:
    """The path of a saved reconstruction, without its ending, .png or .npy."""
    return folder / dataset / image


def check_saved(sets: list[TestSet], folders: list[Path]) -> None:
    """Raise ImageError if a reconstruction would replace or be added to test images."""
    inputs = {file_identity(container(path)) for images in sets for path in images.paths}
    searched = [images.folder.resolve() for images in sets if images.folder]
    for folder, images, ending in itertools.product(folders, sets, (".png", ".npy")):
        for name in images.names:
            target = Path(f"{saved_path(folder, images.name, name)}{ending}")
            over = target.exists() and file_identity(target) in inputs
            if over or any(target.resolve().is_relative_to(place) for place in searched):
                raise ImageError(
                    f"--save-images would write {'over' if over else 'among'} the test images: "
                    f"{target}; choose another --output"
                )


def check_same_sets(folder: Path, sets: list[TestSet]) -> None:
    """Raise ValueError if ``folder`` has scores of other images under the name of a set.

    Images are compared if their names are equal, because then scores and pictures replace each
    other. Older files do not say what their images were.
    """
    for path in sorted(folder.glob("metrics*.json")):
        known = read_results(path).get("datasets", {})
        for images in sets:
            old = known.get(images.name, {})
            same_names = {*old.get("images", {})} == {*images.names}
            if not same_names or "files_sha256" not in old:
                continue
            if old["files_sha256"] != files_fingerprint(images.names, images.paths):
                raise ValueError(
                    f"{path} has scores of other images under the name '{images.name}'; choose "
                    "another --output, or rename the folder of the images"
                )


def file_identity(path: Path) -> tuple[int, int]:
    """An identity that is equal for all names of a file: links, other cases, relative paths."""
    found = path.stat()
    return found.st_dev, found.st_ino


def score(
    weights: Loadable,
    sets: list[TestSet],
    how: Scoring,
    here: Runtime,
    folder: Path,
    save_images: bool,
    with_page: bool,
) -> int:
    """Score at one condition, print the tables, and write the results into ``folder``.

    Returns:
        Number of images that could not be scored.
    """

    extended = []

    def save(dataset: str, result: Result) -> None:
        path = saved_path(folder, dataset, result.name)
        write_reconstruction(path, from_protocol_scale(result.pixels))
        extended.extend([result.name] if result.padding else [])

    folder.mkdir(parents=True, exist_ok=True)  # so that an error comes before the work
    at = how.condition or weights.config.sampling.usual
    scored = score_sets(weights, sets, how, here, save if save_images else None)
    failed = {
        f"{name}/{image}": reason
        for name, data in scored[0]["datasets"].items()
        for image, reason in data.get("failed", {}).items()
    }
    if not here.is_main:
        return len(failed)
    written = []
    for results in scored:
        several = f", protocol {results['protocol']}" if len(scored) > 1 else ""
        print(f"{weights.name} at {weights.config.sampling.title(at)}{several}")
        print(report.comparison(results))
        written.append(add_results(folder, results))
        print(f"written to {printable(written[-1])}")
    if extended:
        print(
            f"images that are not in whole blocks: {len(extended)}; saved with padding "
            "'replicate', which leaves no seam, scored with 'zeros'; --padding sets both"
        )
    if with_page:
        page = folder / f"{written[0].stem.replace('metrics', 'report', 1)}.html"
        print(write_report(page, [Entry(weights, how, scored[0])], sets, here))
    for image, reason in failed.items():
        print(f"test.py: {image} is not scored: {reason}", file=sys.stderr)
    return len(failed)
