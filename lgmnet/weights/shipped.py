"""The weights that are part of the project, and their key numbers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgmnet.config import Config
from lgmnet.operators import BlockSamplingConfig
from lgmnet.report import condition, condition_title
from lgmnet.runtime import checkpoint_roots
from lgmnet.weights.files import SUMS, CheckpointError, read_sums
from lgmnet.weights.loadable import settings_of
from lgmnet.weights.saved import Weights


@dataclass(frozen=True)
class Shipped:
    """Shipped weights: network, training data and scores.

    ``print`` writes one line. ``lgmnet.load(shipped.name)`` loads the weights.
    """

    name: str
    network: str
    ratio: float | tuple[float, ...] | None
    """Sampling ratio of block sampling, or the smallest and the largest ratio of a network for a
    range. None for another operator; the config contains its conditions."""
    parameters: int
    """Trained values of the network, without Φ; of LoRun also those of the backbone."""
    phi_entries: int
    """Number of stored values of Φ, learned or fixed."""
    training_data: str
    images: int
    """Training images."""
    crops: int
    """Crops seen in training."""
    minutes: float
    """Training time, on the device in ``log.jsonl``."""
    results: tuple[dict[str, Any], ...]
    """The contents of the metrics.json files, one for each scored condition."""
    weights: Weights

    @property
    def config(self) -> Config:
        return self.weights.config

    @property
    def psnr(self) -> dict[float | str, dict[str, float]]:
        """PSNR in dB by ratio (or other condition) and test set."""
        return {
            condition(result): {name: data["psnr"] for name, data in result["datasets"].items()}
            for result in self.results
        }

    def __str__(self) -> str:
        several = len(self.config.sampling.conditions) > 1
        size = f"{self.parameters:,} parameters and {self.phi_entries:,} of Φ"
        scores = [
            f"{name} {data['psnr']:.2f} dB"
            + (f" at {condition_title(condition(result))}" if several else "")
            for result in self.results
            for name, data in result["datasets"].items()
            if not several or name == main_set(result)
        ]
        measured = self.config.sampling.measured
        return f"{self.name}: {self.network} at {measured}, {size}; {', '.join(scores)}"


def available() -> list[Shipped]:
    """The weights listed in ``checkpoints/SHA256SUMS``, by name.

    >>> for weights in lgmnet.available():
    ...     print(weights)
    """
    found: dict[str, Shipped] = {}
    for root in checkpoint_roots():
        for file in read_sums(root / SUMS):
            name = Path(file).parent.name
            if (root / file).is_file() and name not in found:
                found[name] = describe(root / file)
    return [found[name] for name in sorted(found)]


def describe(path: Path) -> Shipped:
    """Describe the weights file ``path`` with the ``metrics.json`` files in its folder."""
    weights = Weights(path)
    config, sampling = weights.config, weights.config.sampling
    model = weights.shadow()
    own = settings_of(weights)
    scores = [_read_scores(file) | own for file in path.parent.glob("**/metrics.json")]
    return Shipped(
        name=weights.name,
        network=config.model.name,
        ratio=sampling.ratio if isinstance(sampling, BlockSamplingConfig) else None,
        parameters=sum(tensor.numel() for tensor in model.network.parameters()),
        phi_entries=sum(tensor.numel() for tensor in model.operator.state_dict().values()),
        training_data=weights.metadata.get("training_data", ""),
        images=int(weights.number("training_images")),
        crops=int(weights.number("step")) * config.training.batch_size,
        minutes=weights.number("minutes"),
        results=tuple(sorted(scores, key=condition)),
        weights=weights,
    )


def main_set(result: Mapping[str, Any]) -> str:
    """The test set that stands for a metrics.json in short tables: Set11, else the first."""
    return "Set11" if "Set11" in result["datasets"] else next(iter(result["datasets"]))


def _read_scores(path: Path) -> dict[str, Any]:
    """Read a metrics.json of one condition."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = (
            {"condition": str(content["condition"])}
            if "condition" in content
            else {"ratio": float(content["ratio"])}
        )
        return content | known | {"datasets": dict(content["datasets"])}
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path} is not a metrics.json of test.py; remove it") from None
