"""From a config to the things it names: images, operator, network."""

import inspect
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lgmnet import complexity
from lgmnet.config import Config, ConfigError, SamplingConfig, convert
from lgmnet.data.crops import sample_blocks
from lgmnet.data.datasets import (
    FileImages,
    TrainingImages,
    find_folder,
    open_training_images,
    split,
)
from lgmnet.data.images import list_images, scan
from lgmnet.engine.runtime import data_roots
from lgmnet.models import MODELS, SensingModel, UnfoldingNetwork, create_network
from lgmnet.operators import BlockSampling, matrices
from lgmnet.unfolding.fitted import Fitted

# Training blocks for the PCA start of Φ and for fitted parts.
START_BLOCKS = 60_000


class TrainingData(NamedTuple):
    """Images to train on and to validate on, and why files were left out, by path."""

    train: TrainingImages
    validation: TrainingImages | None
    rejected: dict[str, str]


def open_data(config: Config) -> TrainingData:
    """Find the images of ``config.data``. Validation images are never trained on.

    Raises:
        ImageError: images are missing, or nothing usable is left.
    """
    data, roots = config.data, data_roots()
    smallest = max(data.patch_size, config.sampling.block_size)
    images, rejected = open_training_images(data.train, roots, smallest)
    if data.exclude:
        images, _ = split(images, data.exclude)
    if not data.validation:
        return TrainingData(images, None, rejected)
    if data.validation.endswith(".txt"):
        images, validation = split(images, _read_list(data.validation))
        return TrainingData(images, validation, rejected)
    paths = list_images(find_folder(data.validation, roots))[: data.validation_images]
    found = scan(paths, config.sampling.block_size)
    return TrainingData(
        images,
        FileImages(found.paths, found.sizes),
        rejected | {str(path): reason for path, reason in found.rejected.items()},
    )


def _read_list(path: str) -> list[str]:
    if not Path(path).is_file():
        raise ConfigError(
            f"data.validation names {path}, which is not there; see configs/validation"
        )
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def build_network(config: Config, measurements: int) -> UnfoldingNetwork:
    """The network of ``config.model``; option values are converted as its signature says.

    Raises:
        ConfigError: no such network or option, or a value out of range.
    """
    name, options = config.model.name, config.model.options
    try:
        known = inspect.signature(MODELS.get(name), eval_str=True).parameters
        converted = {
            key: convert(value, known[key].annotation, f"model.{key}") if key in known else value
            for key, value in options.items()
        }
        return create_network(name, converted, measurements, config.sampling.block_size)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def build_model(config: Config, matrix: Tensor | None = None) -> SensingModel:
    """Operator, noise and network of a config, untrained.

    Args:
        matrix: Φ; made as ``config.sampling`` says if none is given.
    """
    sampling = config.sampling
    if matrix is None:
        matrix = initial_matrix(sampling)
    try:
        operator = BlockSampling(matrix, sampling.block_size, sampling.phi == "learned")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    network = build_network(config, len(matrix))
    return SensingModel(operator, network, sampling.noise_std)


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
        side = config.sampling.block_size
        blocks = sample_blocks(images, side, START_BLOCKS, seed)
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
        count = max(START_BLOCKS, 2 * pixels)
        return matrices.pca(sample_blocks(images, sampling.block_size, count, seed), m)
    starts = {
        "xavier": matrices.xavier,
        "gaussian": matrices.gaussian,
        "orthonormal": matrices.orthonormal,
    }
    if sampling.phi_init in starts:
        return starts[sampling.phi_init](m, pixels, torch.Generator().manual_seed(seed))
    return _matrix_from_file(sampling, m)


def _matrix_from_file(sampling: SamplingConfig, m: int) -> Tensor:
    path = Path(sampling.phi_init)
    if not path.suffix:
        raise ConfigError(
            f"sampling.phi_init is '{path}', expected xavier, gaussian, orthonormal, pca or a file"
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


def measurements(sampling: SamplingConfig) -> int:
    """m, or a ConfigError."""
    try:
        return matrices.measurement_count(sampling.ratio, sampling.block_size, sampling.rounding)
    except ValueError as error:
        raise ConfigError(f"sampling: {error}") from None


def describe(config: Config) -> dict[str, Any]:
    """Network, ratio and size in a few words, for logs and tables."""
    m = measurements(config.sampling)
    return {"network": config.model.name, "ratio": config.sampling.ratio, "measurements": m}


def check_trainable(model: nn.Module) -> None:
    """Classical algorithms have nothing to train."""
    if not complexity.parameters(model):
        raise ConfigError(
            "this network and its Φ have no trained values; nothing has to be trained: "
            "python test.py <this config>"
        )


def check_patch(config: Config) -> None:
    """Crops must be in whole blocks, and fit the coarsest scale of the network."""
    patch, block = config.data.patch_size, config.sampling.block_size
    if patch % block:
        raise ConfigError(
            f"data.patch_size {patch} is not a multiple of sampling.block_size {block}; the next "
            f"one is {block * math.ceil(patch / block)}"
        )
