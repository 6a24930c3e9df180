"""Score weights on test sets: PSNR and SSIM per image, with the published values.

Writes metrics.json, metrics.csv and, on request, the reconstructions. Existing scores are kept.
Test sets are added to a file with the same weights and rules; otherwise a new file
metrics.<protocol>.json is written. The exit code is 1 if an image could not be scored.
"""

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

from lgmnet import report, runtime
from lgmnet.data.datasets import TestSet, open_test_sets
from lgmnet.data.images import ImageError, printable, write_reconstruction
from lgmnet.data.stacks import container
from lgmnet.data.values import from_protocol_scale
from lgmnet.evaluation.rebuild import Result
from lgmnet.evaluation.scoring import Scoring, results_folder, score_sets
from lgmnet.metrics import PROTOCOLS, find_protocol
from lgmnet.operators.ratios import ratio_label
from lgmnet.runtime import Runtime
from lgmnet.speed import memory
from lgmnet.weights.adapters import Adapted
from lgmnet.weights.loadable import Loadable
from lgmnet.weights.saved import find_weights

EXAMPLES = """examples:
  python test.py
  python test.py checkpoints/lgm_net_tiny_r0.10 --data Set11 BSD68 --save-images
  python test.py runs/quickstart_r0.10 --data path/to/folder --output results/mine
  python test.py runs/quickstart_r0.10 --data Set11 --protocol paper rounded gaussian
  python test.py runs/lgm_net_tiny_all_ratios_r0.01-0.50 --ratio 0.05 0.1 --data Set11
  python test.py runs/lorun_unet_r0.10/backbone --adapters runs/other/adapters.safetensors
  python test.py configs/fista.yaml sampling.ratio=0.25 --data Set11
  torchrun --nproc-per-node 4 test.py runs/lgm_net_r0.10 --data Urban100
"""


def main() -> int:
    arguments = parse()
    try:
        return score_weights(arguments)
    except (ValueError, OSError) as error:
        print(f"test.py: {error}", file=sys.stderr)
    except (RuntimeError, MemoryError) as error:
        if not memory.out_of_memory(error):
            raise
        print(f"test.py: {memory.OUT_OF_MEMORY}", file=sys.stderr)
    return 1


def score_weights(arguments: argparse.Namespace) -> int:
    """Score all conditions and protocols; returns the exit code."""
    weights: Loadable
    weights = find_weights(arguments.weights, arguments.overrides)
    if arguments.adapters:
        weights = Adapted(weights, arguments.adapters, arguments.merge or "on_the_fly")
    elif arguments.merge:
        raise ValueError(f"--merge {arguments.merge} needs --adapters; give an adapters file")
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
) -> int:
    """Score at one condition, print the tables, and write the results into ``folder``.

    Returns:
        Number of images that could not be scored.
    """

    def save(dataset: str, result: Result) -> None:
        path = saved_path(folder, dataset, result.name)
        write_reconstruction(path, from_protocol_scale(result.pixels))

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
    for results in scored:
        several = f", protocol {results['protocol']}" if len(scored) > 1 else ""
        print(f"{weights.name} at {weights.config.sampling.title(at)}{several}")
        print(report.comparison(results))
        path = report.add_results(folder, results)
        print(f"written to {printable(path)}")
    for image, reason in failed.items():
        print(f"test.py: {image} is not scored: {reason}", file=sys.stderr)
    return len(failed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights",
        nargs="?",
        default="lgm_net_tiny_r0.10",
        help="name, folder or file; or the YAML file of an algorithm without trained values",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="override entries of this YAML file"
    )
    parser.add_argument(
        "--adapters", type=Path, help="LoRun's adapters file; WEIGHTS then gives the backbone"
    )
    parser.add_argument(
        "--merge",
        help="adapters: on_the_fly (memory of one denoiser, default) or per_stage (faster)",
    )
    parser.add_argument(
        "--data", nargs="+", default=["builtin"], help="test sets by name, folder or image"
    )
    parser.add_argument(
        "--at",
        nargs="+",
        help="conditions, for a network with several conditions: r0.05, or the name of a mask",
    )
    parser.add_argument(
        "--ratio", nargs="+", type=float, help="sampling ratios, for a network for a range: 0.05"
    )
    parser.add_argument("--output", type=Path, help="folder (default: results/<weights>)")
    parser.add_argument(
        "--save-images",
        action="store_true",
        help="save reconstructions as PNG (as .npy unless they have 1 or 3 channels)",
    )
    parser.add_argument(
        "--protocol",
        nargs="+",
        help=f"one or more of {', '.join(PROTOCOLS)} (default: that of the weights' config)",
    )
    parser.add_argument("--color", help="luma; rgb: each channel separately; color; bands")
    parser.add_argument("--padding", help="zeros (as published), replicate or crop")
    parser.add_argument(
        "--noise-std", type=float, help="measurement noise, in the unit of y (default: as trained)"
    )
    parser.add_argument(
        "--bits", type=int, help="bits of the detector, 0 for real numbers (default: as trained)"
    )
    parser.add_argument(
        "--consistency",
        action="store_true",
        help="add ‖Φx̂ − y‖ / ‖y‖, and the PSNR after projection onto Φx = y",
    )
    parser.add_argument(
        "--fast", action="store_true", help="use the network rewritten for speed, same output"
    )
    parser.add_argument("--precision", default="fp32", help="fp32, tf32 (GPU), or with --fast bf16")
    parser.add_argument(
        "--max-memory", help="limit, such as 2GiB: reconstruct in strips, same output"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    runtime.outlive_console()
    sys.exit(main())
