"""Self-describing weights files in safetensors format: find, load and write them.

A weights file contains the tensors of the model. Its metadata contain the full config, the training
data, metrics and the hash of Φ, so it can be used without other files.
"""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lgmnet import runtime
from lgmnet.build import OPERATOR, at_condition, build_model, saved_operator
from lgmnet.config import Config
from lgmnet.files import sha256
from lgmnet.models import SensingModel, UnfoldingNetwork
from lgmnet.operators import BlockSampling, LinearOperator
from lgmnet.operators.ratios import condition_of
from lgmnet.unfolding.fitted import Fitted
from lgmnet.weights import hub
from lgmnet.weights.files import SUMS, CheckpointError, read_sums, write_atomically
from lgmnet.weights.tensor_files import (
    FORMAT,
    check_shapes,
    load_state,
    read_config,
    read_metadata,
    read_shapes,
    read_tensors,
    with_content_hash,
)
from lgmnet.weights.untrained import Untrained

# Folder of the first phase of a LoRun.
BACKBONE = "backbone"
# The first existing file of these is loaded from a folder of weights.
WEIGHT_FILES = ("model.safetensors", "best.safetensors", "ema.safetensors", "last.safetensors")


class Weights:
    """A weights file: its path, the config of its model, and its other metadata."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata = read_metadata(path)
        self.config: Config = read_config(self.metadata, path)
        # The name of the folder for the usual file names, else the name of the file.
        folder = path.absolute().parent
        self.name = folder.name if path.name in WEIGHT_FILES else path.stem
        if self.name == BACKBONE:  # every run of a LoRun has one
            self.name = f"{folder.parent.name}_{BACKBONE}"

    def load(self, condition: str | None = None) -> SensingModel:
        """The model in float32, on the CPU, in evaluation mode.

        Args:
            condition: condition of the measurement, such as ``r0.05``, for a network with several
                conditions. The default is the largest ratio, or the first mask.
        """
        verify(self.path)
        self.shadow()  # raises an error before memory is allocated
        state = read_tensors(self.path)
        model = build_model(self.config, saved_operator(state))
        load_state(model, state, str(self.path))
        try:
            model.operator.check_weights()
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        return at_condition(model.eval(), self.config.sampling, condition)

    def shadow(self) -> SensingModel:
        """The model without values, on the meta device, after a check of the tensors of the file.

        Raises:
            CheckpointError: the tensors do not agree with the config.
        """
        return check_shapes(self.config, read_shapes(self.path), self.path)

    def number(self, key: str) -> float:
        """A number of the metadata, such as ``step``; 0 if it is missing.

        Raises:
            CheckpointError: it is not a number, or it is negative.
        """
        text = self.metadata.get(key, "0")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise CheckpointError(f"{key} in {self.path} is '{text}', expected a number >= 0")
        return value


def load(
    name: str | Path, ratio: float | None = None, condition: str | None = None
) -> SensingModel:
    """A model with its weights, by name (``"lgm_net_tiny_r0.10"``), folder, file, or ``hf:`` name.

    An algorithm without trained values is loaded from its config, such as configs/fista.yaml.

    Args:
        ratio: sampling ratio, for a network for a range; by default the largest.
        condition: condition of the measurement, such as the name of a mask; see `Weights.load`.

    Returns:
        The model in evaluation mode, on the CPU. Use its methods ``measure`` and ``reconstruct``,
        or call it.

    Raises:
        CheckpointError: there are no such weights, they are damaged, or shipped weights were
            changed.
        ConfigError: the network does not support this ratio or condition.
        HubError: weights on the hub cannot be downloaded.
    """
    return find_weights(name).load(condition_of(ratio, condition))


def find_weights(name: str | Path, overrides: Sequence[str] = ()) -> Weights | Untrained:
    """Weights by file, by folder, or by name below ``checkpoints/``; or a config, see `Untrained`.

    ``hf:owner/name`` downloads weights from the Hugging Face hub.

    Args:
        overrides: ``section.key=value``, only for a config. Weights contain their config.
    """
    if Path(name).suffix in (".yaml", ".yml") and not Path(name).is_dir():
        return Untrained(Path(name), overrides)
    if overrides:
        raise CheckpointError(
            f"'{overrides[0]}' cannot change the weights '{name}', which contain their config; "
            "only a config without trained values, such as configs/fista.yaml, can be changed"
        )
    if str(name).startswith(hub.PREFIX):
        weights = find_weights(hub.pull(str(name)))
        weights.name = str(name).rpartition("/")[2].partition("@")[0]
        return weights
    candidates = [Path(name)]
    if not Path(name).is_absolute():
        candidates += [root / name for root in runtime.checkpoint_roots()]
    for candidate in candidates:
        if candidate.suffix == ".pt" and not candidate.is_dir():
            raise CheckpointError(
                f"{candidate} is a training state; name its folder, or best.safetensors in it"
            )
        if candidate.is_file():
            weights = Weights(candidate)
            if candidate.name in WEIGHT_FILES[1:]:  # one of several in the folder of a run
                weights.name += f"_{candidate.stem}"
            return weights
        for file in WEIGHT_FILES:
            if (candidate / file).is_file():
                return Weights(candidate / file)
    known = sorted(
        {p.parent.name for r in runtime.checkpoint_roots() for p in r.glob("*/*.safetensors")}
    )
    looked = ", ".join(str(c) for c in candidates)
    raise CheckpointError(
        f"there are no weights '{name}' (looked at {looked}); shipped weights: "
        f"{', '.join(known) or 'none'}"
    )


def save_weights(
    path: Path,
    model: SensingModel,
    config: Config,
    metadata: Mapping[str, str] | None = None,
    precision: torch.dtype = torch.float32,
) -> None:
    """Write a self-describing weights file, atomically.

    Args:
        metadata: more entries, such as training data, step and metrics.
        precision: type of the stored tensors. Loading converts them to float32.

    Raises:
        CheckpointError: the file cannot be written, or a value is NaN or infinite.
    """
    shown = {OPERATOR + k: v for k, v in model.operator.weights().items()}
    state = {k: stored(v, precision) for k, v in (model.state_dict() | shown).items()}
    if ruined := first_not_finite(state):
        raise CheckpointError(f"{path} was not written: {ruined} contains NaN or infinity")
    full = {
        "format": FORMAT,
        "config": json.dumps(config.as_dict()),
        "phi_sha256": stored_fingerprint(model.operator, state),
        **(metadata or {}),
    }
    full = with_content_hash(full, state)
    write_atomically(path, lambda temporary: save_file(state, temporary, full))


def stored(tensor: Tensor, precision: torch.dtype) -> Tensor:
    """A tensor in the form of the file; a tensor without real numbers, such as a mask, is kept."""
    kept = tensor.detach().cpu().contiguous()
    return kept.to(precision) if kept.is_floating_point() else kept


def stored_fingerprint(operator: LinearOperator, state: Mapping[str, Tensor]) -> str:
    """Fingerprint of the operator after loading: the stored numbers are rounded."""
    rounded = copy.deepcopy(operator).cpu()
    rounded.load_state_dict({k: state[OPERATOR + k] for k in operator.state_dict()})
    return rounded.fingerprint()


def verify(path: Path) -> None:
    """Compare shipped weights with their hash. Other weights, such as those of a run, have no hash.

    Raises:
        CheckpointError: the file is not the shipped file.
    """
    folder = path.absolute().parent
    root = folder.parent
    expected = read_sums(root / SUMS).get(f"{folder.name}/{path.name}")
    if expected and (found := sha256(path)) != expected:
        raise CheckpointError(
            f"{path} has SHA-256 {found}, but {root / SUMS} says {expected}: it is damaged or was "
            f"replaced. Restore it (git checkout -- {path}); if you replaced it yourself, remove "
            "that line, score it, and run python scripts/make_tables.py"
        )


def adopt_weights(
    model: SensingModel, name: str | Path, phi: bool = True, grow: bool = False
) -> None:
    """Copy trained weights, perhaps of another ratio, to a new model.

    Args:
        phi: also copy their Φ, if it has the same shape and kind of values. Else the parts that
            are computed from Φ (`Fitted`) stay as they are in the new model.
        grow: the weights are of a smaller network; see `UnfoldingNetwork.grow_from`.

    Raises:
        CheckpointError: there are no such weights, or they belong to another network.
    """
    trained = find_weights(name).load()
    if grow:
        grow_network(model.network, trained, f"training.start {name}")
        return adopt_matrix(model, trained) if phi else None
    ours = {f"operator.{key}": value for key, value in model.operator.state_dict().items()}
    network = {f"network.{key}": value for key, value in trained.network.state_dict().items()}
    if not phi:
        network |= fitted_tensors(model)
    load_state(model, ours | network, f"training.start {name}")
    if phi:
        adopt_matrix(model, trained)


def grow_network(large: UnfoldingNetwork, trained: SensingModel, subject: str) -> None:
    """Grow a network from a trained smaller one; both must then compute the same image.

    Raises:
        CheckpointError: they do not. ``subject`` begins the message.
    """
    small, operator = trained.network, trained.operator
    try:
        if type(large) is not type(small):
            raise ValueError(f"these are weights of {type(small).__name__}")
        large.grow_from(small)
        side = math.lcm(operator.multiple, large.multiple)
        image = torch.rand(1, operator.channels, *(operator.size or (side, side)))
        with torch.no_grad():
            y = operator(image)
            before, after = (n.eval()(y, operator).image for n in (small, large))
        if not torch.allclose(before, after, rtol=0, atol=1e-4 * float(before.abs().max())):
            raise ValueError("it computes another image, so other options differ too")
    except ValueError as error:
        raise CheckpointError(
            f"{subject} cannot grow to this {type(large).__name__}: {error}; let only the sizes "
            "of model differ, and none be smaller"
        ) from None


def fitted_tensors(model: SensingModel) -> dict[str, Tensor]:
    """The tensors of a model that are computed from its Φ, by name."""
    return {
        f"{name}.{key}": value
        for name, part in model.named_modules()
        if isinstance(part, Fitted)
        for key, value in part.state_dict().items()
    }


def adopt_matrix(model: SensingModel, trained: SensingModel) -> None:
    """Use the Φ of a trained model if it has the same shape.

    Only the Φ of block sampling: a mask or a kernel is what the run was asked to measure with.
    """
    if not isinstance(model.operator, BlockSampling):
        return
    ours, theirs = model.operator.state_dict(), trained.operator.state_dict()
    shapes = [{k: v.shape for k, v in state.items()} for state in (ours, theirs)]
    if shapes[0] == shapes[1]:
        model.operator.load_state_dict(theirs)


def first_not_finite(value: Any, name: str = "") -> str:
    """Name of the first tensor in ``value`` with NaN or infinity; empty if there is none."""
    if isinstance(value, Tensor):
        return "" if value.isfinite().all() else name
    entries = value.items() if isinstance(value, Mapping) else ()
    return next(filter(None, (first_not_finite(v, f"{name} {k}".strip()) for k, v in entries)), "")
