"""Checks before a run starts: settings that make the run impossible."""

import math

import torch

from lgmnet import complexity
from lgmnet.build import build_network
from lgmnet.config import Config, ConfigError
from lgmnet.losses import orthogonality
from lgmnet.models import SensingModel, UnfoldingNetwork
from lgmnet.operators import BlockSampling
from lgmnet.runtime import Runtime


def check_trainable(model: SensingModel) -> None:
    """Raise ConfigError if nothing is trained, as in classical algorithms, or if Φ cannot be."""
    operator = model.operator
    kept = isinstance(operator, BlockSampling) and operator.orthonormal
    if kept and not orthogonality(operator) < 1e-7:  # also if it is NaN
        raise ConfigError(
            "rows of Φ are linearly dependent, or nearly, so sampling.phi=orthonormal cannot make "
            "them orthonormal; change sampling.phi_init"
        )
    if not complexity.parameters(model):
        raise ConfigError(
            "this network and its Φ have no trained values; score it without training: "
            "python test.py <this config>"
        )
    if trained_alone(model.network) and complexity.parameters(model.operator):
        raise ConfigError(
            f"{type(model.network).__name__} is trained without measuring, so it cannot learn Φ; "
            "set sampling.phi=fixed"
        )


def trained_alone(network: UnfoldingNetwork) -> bool:
    """Whether a training step does not measure; see `UnfoldingNetwork.learn`."""
    return type(network).learn is not UnfoldingNetwork.learn


def check_run(config: Config, here: Runtime) -> None:
    """Raise ConfigError unless crops fit the model, and the rest what this process runs on."""
    sampling = config.sampling
    block = sampling.sizes().get("block_size", 1)
    with torch.device("meta"):
        network = build_network(config, config.sampling.sizes())
    multiple = math.lcm(block, network.multiple)
    side = config.data.crop_size
    following = multiple * math.ceil(side / multiple)
    if side != following:
        raise ConfigError(
            f"data.crop_size {side} is not a multiple of {multiple}, which "
            + f"blocks of {block} and " * (block > 1)
            + f"{config.model.name} need; the next one is {following}"
        )
    settings = config.training
    if trained_alone(network):
        for name in ("compile", "cuda_graphs", "ratio_exponent"):
            if getattr(settings, name):
                raise ConfigError(
                    f"training.{name} has no meaning for {config.model.name}, which is trained "
                    "without measuring; leave it out"
                )
    if settings.compile and sampling.resizes:
        raise ConfigError(
            "training.compile makes a graph for every number of measurements, and with a range of "
            "sampling.ratio every step draws another number; set training.compile=false"
        )
    if settings.cuda_graphs and here.device.type != "cuda":
        raise ConfigError(
            f"training.cuda_graphs needs a GPU, and this run is on {here.device}; set "
            "training.cuda_graphs=false"
        )
    if settings.batch_size % (here.processes * settings.accumulate):
        raise ConfigError(
            f"training.batch_size {settings.batch_size} is not a multiple of "
            f"{here.processes} processes x {settings.accumulate} parts"
        )
