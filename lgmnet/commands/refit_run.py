"""The work of ``lgmnet refit``."""

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np

from lgmnet.commands import call
from lgmnet.config import Config
from lgmnet.data.images import write_array
from lgmnet.files import write_text
from lgmnet.weights.camera import read_own_matrix, unit_norm
from lgmnet.weights.saved import find_weights


def own_config(config: Config, arguments: argparse.Namespace, matrix: Path) -> Config:
    """The config of the weights with the user's Φ and a short schedule."""
    if config.lora is not None:
        raise ValueError("weights with adapters cannot be adapted to another Φ; choose others")
    rows, pixels = np.load(matrix).shape
    sampling = dataclasses.replace(
        config.block_sampling,
        ratio=rows / pixels,
        block_size=math.isqrt(pixels),
        rounding="round",
        phi="fixed",
        phi_init=str(matrix),
        phi_values="real",
        ordering="sequency",
    )
    training = dataclasses.replace(
        config.training,
        start=arguments.weights,
        start_phi=False,
        minutes=arguments.minutes,
        rate=arguments.rate,
        schedule="onecycle",
        milestones=(),
        ema=0.99,
        precision="auto",
    )
    side, images = math.isqrt(pixels), tuple(arguments.data)
    data = dataclasses.replace(
        config.data,
        train=images,
        validation="",
        exclude=config.data.exclude if images == config.data.train else (),  # names of its images
        crop_size=side * math.ceil(config.data.crop_size / side),
    )
    evaluation = dataclasses.replace(config.evaluation, datasets=())
    return dataclasses.replace(
        config, sampling=sampling, training=training, data=data, evaluation=evaluation
    )


def run(arguments: argparse.Namespace) -> int:
    """Write Φ and the config into the folder of the run, and train; returns the exit code."""
    folder = arguments.output
    matrix = unit_norm(read_own_matrix(arguments.matrix, arguments.column_major))
    if not arguments.minutes > 0:
        raise ValueError(f"--minutes is {arguments.minutes}, expected > 0")
    if (folder / "last.pt").exists():
        raise ValueError(f"{folder} already contains a run; choose another --output")
    config = find_weights(arguments.weights).config
    folder.mkdir(parents=True, exist_ok=True)
    write_array(folder / "phi.npy", matrix.numpy())
    config = own_config(config, arguments, folder / "phi.npy")
    write_text(folder / "refit.yaml", config.as_yaml())
    command = [folder / "refit.yaml", "--output", folder, "--device", arguments.device]
    return call("train", list(map(str, command)), arguments.prog)
