"""Checks before a run starts: settings that make the run impossible."""

import math

import torch
from torch import nn

from lgmnet import complexity
from lgmnet.build import build_network
from lgmnet.config import Config, ConfigError
from lgmnet.ratios import measurements
from lgmnet.runtime import Runtime


def check_trainable(model: nn.Module) -> None:
    """Raise ConfigError if nothing is trained, as in classical algorithms."""
    if not complexity.parameters(model):
        raise ConfigError(
            "this network and its Φ have no trained values; score it without training: "
            "python test.py <this config>"
        )


def check_run(config: Config, here: Runtime) -> None:
    """Raise ConfigError unless the settings fit the model, the device and the processes."""
    block = config.sampling.block_size
    with torch.device("meta"):
        network = build_network(config, measurements(config.sampling))
    multiple = math.lcm(block, network.multiple)
    side = config.data.crop_size
    following = multiple * math.ceil(side / multiple)
    if side != following:
        raise ConfigError(
            f"data.crop_size {side} is not a multiple of {multiple}, which blocks of {block} and "
            f"{config.model.name} need; use {following}"
        )
    settings = config.training
    if settings.compile and config.sampling.is_range:
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
