"""Build images, operator and network from a config."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from lgmnet.config import Config, ConfigError, convert, plain
from lgmnet.data.crops import sample_blocks
from lgmnet.data.datasets import TrainingImages
from lgmnet.models import MODELS, SensingModel, UnfoldingNetwork, create_network
from lgmnet.operators import BlockSampling, SamplingConfig
from lgmnet.runtime import data_roots
from lgmnet.unfolding.fitted import Fitted

# Training blocks for the PCA start of Φ and for fitted parts.
START_BLOCKS = 60_000
# Prefix of the names of an operator's tensors in the state of a model.
OPERATOR = "operator."


def converted_options(config: Config) -> dict[str, Any]:
    """``config.model.options`` in the types of the network's signature. Unknown options stay
    unchanged."""
    known = inspect.signature(MODELS.get(config.model.name), eval_str=True).parameters
    return {
        key: convert(value, known[key].annotation, f"model.{key}") if key in known else value
        for key, value in config.model.options.items()
    }


def build_network(config: Config, sizes: Mapping[str, int]) -> UnfoldingNetwork:
    """The network of ``config.model``. Options are converted to the types of its signature.

    Args:
        sizes: sizes of the operator, see `LinearOperator.sizes`.

    Raises:
        ConfigError: the network or an option is unknown, a value is out of range, or the network
            needs another operator.
    """
    try:
        return create_network(config.model.name, converted_options(config), sizes)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def chosen_options(config: Config) -> dict[str, Any]:
    """The options of the network that differ from the defaults of its constructor."""
    known = inspect.signature(MODELS.get(config.model.name)).parameters
    options = converted_options(config).items()
    return plain({key: value for key, value in options if value != known[key].default})


@dataclass(frozen=True)
class Source:
    """See `lgmnet.operators.sampling.Source`.

    Args:
        tensors: saved tensors of the operator by name, if weights are loaded.
        images: training images.
    """

    tensors: Mapping[str, Tensor] | None = None
    images: TrainingImages | None = None
    seed: int = 0

    def tensor(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if self.tensors is None:
            return make()
        if name not in self.tensors:
            raise ConfigError(f"there is no tensor operator.{name} in the weights")
        return self.tensors[name]

    def find(self, name: str) -> Path:
        candidates = [Path(name), *(root / name for root in data_roots())]
        return next((path for path in candidates if path.is_file()), Path(name))

    def blocks(self, side: int) -> Tensor | None:
        return None if self.images is None else start_blocks(self.images, side, self.seed)


def saved_operator(state: Mapping[str, Tensor]) -> Source:
    """A source with the operator's tensors from the state of a model."""
    own = {k.removeprefix(OPERATOR): v for k, v in state.items() if k.startswith(OPERATOR)}
    return Source(own)


def build_model(config: Config, source: Source | None = None) -> SensingModel:
    """Operator, noise and network of a config, untrained.

    Args:
        source: gives the tensors of the operator; by default, files and random numbers.

    Raises:
        ConfigError: a setting is wrong, or the network does not support the operator.
    """
    sampling = config.sampling
    if sampling.resizes:
        _check_resizes(config.model.name)
    operator = sampling.make(source or Source())
    network = build_network(config, operator.sizes())
    try:
        network.check_operator(operator)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return SensingModel(operator, network, sampling.noise_std, sampling.detector)


def at_condition(
    model: SensingModel, sampling: SamplingConfig, condition: str | None
) -> SensingModel:
    """``model`` with the operator of a condition, for inference only. None: ``model`` itself.

    Raises:
        ConfigError: the model does not support this condition.
    """
    if condition is None:
        return model
    with torch.no_grad():
        operator = sampling.at(model.operator, condition)
    return model if operator is model.operator else model.measured_by(operator)


def shadow_model(config: Config, state: Mapping[str, Tensor], parts: int) -> SensingModel:
    """The model of a config on the meta device: names and shapes, without memory for values.

    Args:
        state: the tensors of the model by name, on the meta device.
        parts: largest number of modules and tensors; beyond it, building stops with an error.

    Raises:
        ConfigError: the model has more parts, its tensors are too large for any machine, or a
            setting is wrong.
    """
    MODELS.find(config.model.name)  # a package of a user is not imported on the meta device
    try:
        with torch.device("meta"), _at_most(parts):
            return build_model(config, saved_operator(state))
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes beyond 64 bits
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"the network cannot be built ({reason})") from None


@contextmanager
def _at_most(parts: int) -> Iterator[None]:
    """Limit the number of submodules, parameters and buffers that this thread creates."""
    thread, left = get_ident(), parts

    def count(*_: object) -> None:
        nonlocal left
        left -= get_ident() == thread
        if left < 0:
            raise ConfigError(f"the network has more than {parts} modules and tensors")

    handles = [
        register(count)
        for register in (
            register_module_module_registration_hook,
            register_module_parameter_registration_hook,
            register_module_buffer_registration_hook,
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_resizes(network: str) -> None:
    """Raise ConfigError if the network has a linear map of y, which fits one m only."""
    if "measurements" in inspect.signature(MODELS.get(network)).parameters:
        raise ConfigError(
            f"{network} begins with a linear map of the measurement, which fits one ratio; set "
            "sampling.ratio to one number, or choose a network such as lgm_net or prl"
        )


def start_model(config: Config, images: TrainingImages) -> SensingModel:
    """A model ready for training: with Φ, and with fitted parts if parts depend on Φ.

    Raises:
        ConfigError: a setting is wrong.
    """
    source = Source(images=images, seed=config.training.seed)
    model = build_model(config, source)
    fitted = [module for module in model.modules() if isinstance(module, Fitted)]
    if not fitted:
        return model
    operator = model.operator
    assert isinstance(operator, BlockSampling)  # fitted parts need sizes of block sampling
    needed = any(part.needs_blocks for part in fitted)
    blocks = source.blocks(operator.block_size) if needed else None
    for part in fitted:
        part.fit(operator.matrix.detach(), blocks)
    return model


def start_blocks(images: TrainingImages, block_size: int, seed: int) -> Tensor:
    """Training blocks ``(count, B²)`` in [0, 1], enough for PCA and for fitted parts."""
    return sample_blocks(images, block_size, max(START_BLOCKS, 2 * block_size**2), seed)
