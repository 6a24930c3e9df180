"""From a config to the things it names: images, operator, network."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
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

from lgmnet.config import Config, ConfigError, SamplingConfig, convert, plain
from lgmnet.data.crops import sample_blocks
from lgmnet.data.datasets import (
    TrainingImages,
)
from lgmnet.models import MODELS, SensingModel, UnfoldingNetwork, create_network
from lgmnet.operators import BlockSampling, matrices
from lgmnet.ratios import measurements
from lgmnet.unfolding.fitted import Fitted

# Training blocks for the PCA start of Φ and for fitted parts.
START_BLOCKS = 60_000


def converted_options(config: Config) -> dict[str, Any]:
    """``config.model.options`` in the types of the network's signature; unknown ones unchanged."""
    known = inspect.signature(MODELS.get(config.model.name), eval_str=True).parameters
    return {
        key: convert(value, known[key].annotation, f"model.{key}") if key in known else value
        for key, value in config.model.options.items()
    }


def build_network(config: Config, measurements: int) -> UnfoldingNetwork:
    """The network of ``config.model``; option values are converted as its signature says.

    Raises:
        ConfigError: no such network or option, or a value out of range.
    """
    try:
        options, block_size = converted_options(config), config.sampling.block_size
        return create_network(config.model.name, options, measurements, block_size)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def chosen_options(config: Config) -> dict[str, Any]:
    """The options of the network that are not the defaults of its constructor."""
    known = inspect.signature(MODELS.get(config.model.name)).parameters
    options = converted_options(config).items()
    return plain({key: value for key, value in options if value != known[key].default})


def build_model(config: Config, matrix: Tensor | None = None) -> SensingModel:
    """Operator, noise and network of a config, untrained.

    Args:
        matrix: Φ; made as ``config.sampling`` says if none is given.
    """
    sampling = config.sampling
    if matrix is None:
        matrix = initial_matrix(sampling)
    if sampling.is_range:
        _check_serves_a_range(config.model.name)
    try:
        operator = BlockSampling(matrix, sampling.block_size, sampling.phi == "learned")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    network = build_network(config, len(matrix))
    return SensingModel(operator, network, sampling.noise_std)


def shadow_model(config: Config, phi_shape: tuple[int, int], parts: int) -> SensingModel:
    """The model of a config on the meta device: names and shapes, without memory for values.

    Args:
        phi_shape: of Φ, ``(m, B²)``.
        parts: the most modules and tensors that it may have; building stops beyond.

    Raises:
        ConfigError: it has more, its tensors are too large for any machine, or a setting is wrong.
    """
    try:
        with torch.device("meta"), _at_most(parts):
            return build_model(config, torch.empty(phi_shape))
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes beyond 64 bits
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"the network cannot be built ({reason})") from None


@contextmanager
def _at_most(parts: int) -> Iterator[None]:
    """Let this thread give modules so many submodules, parameters and buffers."""
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


def _check_serves_a_range(network: str) -> None:
    """Linear maps of y are made for one m."""
    if "measurements" in inspect.signature(MODELS.get(network)).parameters:
        raise ConfigError(
            f"{network} begins with a linear map of the measurement, which fits one ratio; set "
            "sampling.ratio to one number, or choose a network such as lgm_net or prl"
        )


def start_model(config: Config, images: TrainingImages) -> SensingModel:
    """A model ready to be trained: Φ made, and the parts that depend on it fitted.

    Raises:
        ConfigError: a setting does not fit.
    """
    seed = config.training.seed
    matrix = initial_matrix(config.sampling, images, seed)
    model = build_model(config, matrix)
    fitted = [module for module in model.modules() if isinstance(module, Fitted)]
    blocks = None
    if any(part.needs_blocks for part in fitted):
        blocks = start_blocks(images, config.sampling.block_size, seed)
    for part in fitted:
        part.fit(matrix, blocks)
    return model


def initial_matrix(
    sampling: SamplingConfig, images: TrainingImages | None = None, seed: int = 0
) -> Tensor:
    """Φ ``(m, B²)`` as ``sampling.phi_init`` says.

    Args:
        images: training images, for ``pca``; without them ``pca`` gives zeros, to be loaded.
    """
    pixels = sampling.block_size**2
    m = measurements(sampling)
    if sampling.phi_init == "pca":
        if images is None:
            return torch.zeros(m, pixels)
        return matrices.pca(start_blocks(images, sampling.block_size, seed), m)
    starts = {
        "xavier": matrices.xavier,
        "gaussian": matrices.gaussian,
        "small_gaussian": matrices.small_gaussian,
        "orthonormal": matrices.orthonormal,
    }
    if sampling.phi_init in starts:
        return starts[sampling.phi_init](m, pixels, torch.Generator().manual_seed(seed))
    return _matrix_from_file(sampling, m)


def start_blocks(images: TrainingImages, block_size: int, seed: int) -> Tensor:
    """Training blocks ``(count, B²)`` in [0, 1], enough for the PCA and for fitted parts."""
    return sample_blocks(images, block_size, max(START_BLOCKS, 2 * block_size**2), seed)


def _matrix_from_file(sampling: SamplingConfig, m: int) -> Tensor:
    path = Path(sampling.phi_init)
    if not path.suffix:
        raise ConfigError(
            f"sampling.phi_init is '{path}', expected xavier, gaussian, small_gaussian, "
            "orthonormal, pca or a file"
        )
    try:
        matrix = matrices.load_matrix(path)
    except ValueError as error:
        raise ConfigError(f"sampling.phi_init: {error}") from None
    if len(matrix) != m:
        ratio = len(matrix) / sampling.block_size**2
        raise ConfigError(
            f"{path} measures {len(matrix)} numbers per block (ratio {ratio:.4f}), but "
            f"sampling.ratio {sampling.ratio} with rounding '{sampling.rounding}' asks for {m}; "
            "change the ratio, the rounding or the file"
        )
    return matrix
