"""The work of ``lgmnet verify``."""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from lgmnet import runtime
from lgmnet.commands.import_weights_run import import_weights
from lgmnet.data.color import luma
from lgmnet.data.datasets import TestSet, open_test_set
from lgmnet.data.images import ImageError
from lgmnet.evaluation.rebuild import Result, Rules, evaluate
from lgmnet.metrics import PROTOCOLS, score, summarise
from lgmnet.operators.matrices import load_matrix
from lgmnet.runtime import Runtime
from lgmnet.weights.saved import find_weights

# The authors' script pads by a whole block even if no padding is needed; so do all rows below.
GOLDEN_PSNR = {
    "paper": (26.4856, 32.4357),
    "rounded": (26.4825, 32.4234),
    "truncated": (26.4604, 32.3825),
    "border4": (26.5563, 32.4121),
    "pooled": (24.4477, 30.4205),
    "limited": (27.8075, 33.7576),
}
GOLDEN_SSIM = {"paper": (0.8036, 0.9237), "gaussian": (0.7998, 0.9190)}
# ‖Φx̂ − y‖ / ‖y‖ before clipping, mean over the images.
GOLDEN_RESIDUAL = (0.0227, 0.0087)
RATIOS = (10, 25)


def run(arguments: argparse.Namespace) -> int:
    """Print each value and its verdict; returns the exit code."""
    folder = find_published(arguments.weights)
    images = open_test_set("Set11", runtime.data_roots())
    with runtime.start(arguments.device) as here:
        runtime.announce(here, sys.stderr)
        failures = sum(verify(folder, k, images, here) for k in range(len(RATIOS)))
    print("all values are reproduced" if not failures else f"{failures} values differ")
    return 1 if failures else 0


def find_published(given: Path | None) -> Path:
    candidates = [given] if given else []
    if not given:
        for root in runtime.data_roots():
            candidates += [root / "istanet", root / "reference" / "istanet"]
    for folder in candidates:
        if (folder / "model").is_dir() and (folder / "sampling_matrix").is_dir():
            return folder
    looked = ", ".join(str(folder) for folder in candidates)
    raise ImageError(
        f"the published ISTA-Net+ weights are not there (looked at {looked}); clone "
        "github.com/jianzhangcs/ISTA-Net-PyTorch and name it with --weights"
    )


def verify(folder: Path, which: int, images: TestSet, here: Runtime) -> int:
    """Check all stored values of one ratio; return how many differ."""
    print(f"ISTA-Net+ at {RATIOS[which]} %, Set11")
    targets = [luma(image.pixels) for image in images]
    results = reconstruct(folder, RATIOS[which], images, here)
    failures = 0
    for name in (*GOLDEN_PSNR, "gaussian"):
        protocol = dataclasses.replace(PROTOCOLS[name], always_pad=True)
        scores = [score(r.pixels, t, protocol) for r, t in zip(results, targets, strict=True)]
        total = summarise(scores, protocol)
        if name in GOLDEN_PSNR:
            failures += check(name, "PSNR", total.psnr, GOLDEN_PSNR[name][which], 1e-3)
        if name in GOLDEN_SSIM:
            failures += check(name, "SSIM", total.ssim, GOLDEN_SSIM[name][which], 1e-4)
    residual = sum(r.consistency.residual for r in results if r.consistency) / len(results)
    return failures + check("-", "‖Φx̂−y‖/‖y‖", residual, GOLDEN_RESIDUAL[which], 1e-4)


def reconstruct(folder: Path, ratio: int, images: TestSet, here: Runtime) -> list[Result]:
    """The test images, reconstructed with the published weights."""
    model_folder = f"CS_ISTA_Net_plus_layer_9_group_1_ratio_{ratio}_lr_0.0001"
    matrices = folder / "sampling_matrix"
    with tempfile.TemporaryDirectory() as temporary:
        import_weights(
            "ista_net_plus",
            folder / "model" / model_folder / "net_params_200.pkl",
            Path(temporary),
            load_matrix(matrices / f"phi_0_{ratio}_1089.mat"),
            load_matrix(matrices / f"Initialization_Matrix_{ratio}.mat"),
        )
        model = find_weights(temporary).load().to(here.device)
        rules = Rules(PROTOCOLS["ista33"], consistency=True)
        with tqdm(images, images.name, unit="image", leave=False, disable=None) as bar:
            return list(evaluate(model, bar, here, rules))


def check(protocol: str, what: str, value: float, golden: float, tolerance: float) -> int:
    """Print one line; return 1 if the value differs."""
    # The stored values have four digits: allow half a unit of the last digit.
    passed = abs(value - golden) <= tolerance + 5e-5
    verdict = "pass" if passed else "FAIL"
    print(f"  {verdict}  {protocol:10} {what:12} {value:8.4f}  expected {golden:8.4f}")
    return 0 if passed else 1
