"""The LISTA experiment: predict sparse codes of image patches by a few learned iterations.

Prints our table and the published one, and the FISTA iterations that equal one of LISTA.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import runtime
from lgmnet.data.crops import sample_blocks
from lgmnet.data.datasets import open_training_images
from lgmnet.data.images import ImageError
from lgmnet.models.lista import LISTA, SparseCoding, TanhEncoder
from lgmnet.report import markdown

SIDE = 10
ALPHA = 0.5
TARGET_STEPS = 3000
BATCH = 256
# Mean squared error of the code, m = 100 and 400 (Gregor and LeCun, ICML 2010, table 1).
PUBLISHED = {
    "D tanh": (8.6, 10.7),
    "D (tanh(x+u) + tanh(x-u))": (3.33, 4.62),
    "LISTA, 0": (3.29, 4.82),
    "LISTA, 1": (1.50, 2.45),
    "LISTA, 3": (0.98, 2.12),
    "LISTA, 7": (0.52, 1.62),
    "FISTA, 1": (21.0, 22.0),
}
PUBLISHED_MATCH = (18, 35)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["BSDS500"], help="training images")
    parser.add_argument(
        "--twin", action="store_true", help="synthetic codes and dictionary instead of patches"
    )
    parser.add_argument("--patches", type=int, default=20_000, help="patches for training")
    parser.add_argument("--draws", type=int, default=1_000_000, help="samples seen in training")
    arguments = parser.parse_args()
    try:
        columns = [experiment(m, arguments) for m in (100, 400)]
    except ModuleNotFoundError:
        need = "pip install -c constraints.txt -e '.[experiments]'"
        print(f"lista.py: the dictionary needs scikit-learn: {need}", file=sys.stderr)
        return 1
    except ImageError as error:
        print(f"lista.py: {error}", file=sys.stderr)
        return 1
    rows = [
        [name, *(f"{errors[name]:.3f}" for errors, _ in columns), *(f"{p:g}" for p in published)]
        for name, published in PUBLISHED.items()
    ]
    rows.append(["FISTA steps for LISTA, 1", *(str(match) for _, match in columns),
                 *(str(match) for match in PUBLISHED_MATCH)])  # fmt: skip
    header = ["predictor, iterations", "m = 100", "m = 400", "paper, 100", "paper, 400"]
    print(markdown(header, rows))
    return 0


def experiment(m: int, arguments: argparse.Namespace) -> tuple[dict[str, float], int]:
    """Errors of all predictors for codes of length m, and FISTA steps that equal one of LISTA."""
    torch.manual_seed(0)
    make = synthetic if arguments.twin else natural
    problem, x = make(m, arguments)
    target = torch.cat([problem.fista(part, TARGET_STEPS) for part in tqdm(x.split(4000))])
    kept = arguments.patches
    train, test = (x[:kept], target[:kept]), (x[kept:], target[kept:])
    predictors: dict[str, nn.Module] = {
        "D tanh": TanhEncoder(problem, pair=False),
        "D (tanh(x+u) + tanh(x-u))": TanhEncoder(problem, pair=True),
        **{f"LISTA, {steps}": LISTA(problem, steps) for steps in (0, 1, 3, 7)},
    }
    errors = {}
    for name, predictor in predictors.items():
        fit(predictor, *train, arguments.draws, f"m = {m}, {name}")
        with torch.inference_mode():
            errors[name] = error(predictor(test[0].float()).double(), test[1])
    errors["FISTA, 1"] = error(problem.fista(test[0], 1), test[1])
    steps = 1
    while error(problem.fista(test[0], steps), test[1]) > errors["LISTA, 1"]:
        steps += 1
    return errors, steps


def error(code: Tensor, target: Tensor) -> float:
    """Mean of ‖z* − z‖²."""
    return float((code - target).square().sum(1).mean())


def fit(predictor: nn.Module, x: Tensor, target: Tensor, draws: int, title: str) -> None:
    """Adam with a cosine schedule from 4e-3 to 4e-4; batches of random samples."""
    x, target = x.float(), target.float()
    optimizer = torch.optim.Adam(predictor.parameters(), lr=4e-3)
    steps = math.ceil(draws / BATCH)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=4e-4)
    for _ in tqdm(range(steps), desc=title):
        chosen = torch.randint(len(x), (BATCH,))
        loss = 0.5 * (predictor(x[chosen]) - target[chosen]).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()


def natural(m: int, arguments: argparse.Namespace) -> tuple[SparseCoding, Tensor]:
    """Patches ``(count, 100)`` of images and the dictionary learned on them."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    images, _ = open_training_images(arguments.data, runtime.data_roots(), SIDE)
    count = arguments.patches + arguments.patches // 10
    patches = sample_blocks(images, SIDE, 2 * count, seed=0).double()
    patches = patches - patches.mean(1, keepdim=True)
    contrast = patches.std(1, keepdim=True)
    patches = (patches / contrast)[contrast[:, 0] > 0.02][:count]  # flat patches are dropped
    learner = MiniBatchDictionaryLearning(
        m, alpha=ALPHA, max_iter=4, batch_size=256, fit_algorithm="cd", random_state=0
    )
    dictionary = torch.from_numpy(learner.fit(patches.numpy()).components_.T)
    return SparseCoding(dictionary / dictionary.norm(dim=0), ALPHA), patches


def synthetic(m: int, arguments: argparse.Namespace) -> tuple[SparseCoding, Tensor]:
    """A Gaussian dictionary, and samples of Bernoulli(0.1)-Gaussian codes with noise."""
    count = arguments.patches + arguments.patches // 10
    dictionary = torch.randn(SIDE**2, m, dtype=torch.float64)
    dictionary = dictionary / dictionary.norm(dim=0)
    codes = torch.randn(count, m, dtype=torch.float64) * (torch.rand(count, m) < 0.1)
    x = codes @ dictionary.T
    return SparseCoding(dictionary, ALPHA), x + 0.01 * torch.randn_like(x)


if __name__ == "__main__":
    sys.exit(main())
