"""The work of ``lgmnet refit``."""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

from lgmnet.commands import call
from lgmnet.config import Config
from lgmnet.data.images import write_array
from lgmnet.files import write_text
from lgmnet.operators.matrices import load_matrix
from lgmnet.weights.own_phi import own_sampling, read_own_matrix, unit_norm
from lgmnet.weights.saved import find_weights


def own_config(config: Config, arguments: argparse.Namespace, matrix: Path) -> Config:
    """The config of the weights with the user's Φ and a short schedule."""
    if config.lora is not None:
        raise ValueError("weights with adapters cannot be adapted to another Φ; choose others")
    sampling = own_sampling(config.block_sampling, load_matrix(matrix), matrix)
    training = dataclasses.replace(
        config.training,
        **length(arguments),
        start=arguments.weights,
        start_phi=False,
        rate=arguments.rate,
        schedule="onecycle",
        milestones=(),
        ema=0.99,
        precision="auto",
    )
    side, images = sampling.block_size, tuple(arguments.data)
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


def length(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of training for ``--steps`` or ``--minutes``."""
    steps, minutes = arguments.steps, arguments.minutes
    if steps is None:
        if not 0 < minutes < math.inf:
            raise ValueError(f"--minutes is {minutes}, expected > 0")
        return {"minutes": minutes}
    if steps < 1:
        raise ValueError(f"--steps is {steps}, expected at least 1")
    return {"minutes": 0.0, "epochs": 1, "steps_per_epoch": steps}


def run(arguments: argparse.Namespace) -> int:
    """Write Φ and the config into the folder of the run, and train; returns the exit code."""
    folder = arguments.output
    matrix = unit_norm(read_own_matrix(arguments.matrix, arguments.column_major))
    length(arguments)  # a mistake is told before anything is written
    if (folder / "last.pt").exists():
        raise ValueError(f"{folder} already contains a run; choose another --output")
    config = find_weights(arguments.weights).config
    folder.mkdir(parents=True, exist_ok=True)
    write_array(folder / "phi.npy", matrix.numpy())
    config = own_config(config, arguments, folder / "phi.npy")
    write_text(folder / "refit.yaml", config.as_yaml())
    command = [folder / "refit.yaml", "--output", folder, "--device", arguments.device]
    return call("train", list(map(str, command)), arguments.prog)
