"""The work of ``lgmnet reconstruct``."""

import argparse
import math
import re
import sys
from pathlib import Path

import numpy as np
import torch

from lgmnet import runtime
from lgmnet.data import color
from lgmnet.data.images import printable, write_array, write_image
from lgmnet.data.values import to_uint8
from lgmnet.models import SensingModel
from lgmnet.operators import BlockSampling
from lgmnet.speed.inference import prepare
from lgmnet.speed.memory import OUT_OF_MEMORY, out_of_memory
from lgmnet.speed.precision import convolutions
from lgmnet.weights.camera import Layout, arrange, read_values
from lgmnet.weights.measurement import Measurement, load_measurement, reconstruct_image
from lgmnet.weights.own_phi import own_operator, read_own_matrix
from lgmnet.weights.saved import find_weights

# Files with the numbers of a camera.
CAMERA = (".csv", ".txt", ".npy", ".npz", ".mat")


def of_camera(
    arguments: argparse.Namespace, device: torch.device
) -> tuple[SensingModel, Measurement]:
    """The model and the measurement of a file with the numbers of a camera."""
    layout = Layout(
        order=arguments.order,
        pairs=arguments.pairs,
        column_major=arguments.column_major,
        dark=arguments.dark,
        white=arguments.white,
    )
    height, width = sides(arguments.size)
    weights = find_weights(arguments.weights)
    model = weights.load()
    operator = model.operator
    if not isinstance(operator, BlockSampling):
        raise ValueError(f"numbers of a camera need block sampling, not {type(operator).__name__}")
    matrix = operator.matrix.detach()
    if arguments.matrix:
        matrix = read_own_matrix(arguments.matrix, layout.column_major)
    block = math.isqrt(matrix.shape[1])
    if height % block or width % block:
        raise ValueError(f"--size {arguments.size} is not in whole blocks of {block} x {block}")
    values = read_values(arguments.measurement)
    name = str(arguments.measurement)
    y = arrange(values, len(matrix), (height // block, width // block), layout, name)
    network = weights.config.model.name
    operator, unit, known = own_operator(model, network, matrix)
    model = model.measured_by(operator).eval()
    if not known:
        print(
            f"warning: {arguments.weights} was trained for another Φ and loses quality on this "
            "one; scripts/refit.py adapts it in minutes",
            file=sys.stderr,
        )
    return model.to(device), Measurement(unit * y, height, width, operator.fingerprint())


def sides(text: str | None) -> tuple[int, int]:
    """Height and width of ``96x128``."""
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text or "")
    if match is None:
        raise ValueError(f"--size is {text}, expected height x width in pixels, such as 96x128")
    return int(match[1]), int(match[2])


def of_file(
    arguments: argparse.Namespace, device: torch.device
) -> tuple[SensingModel, Measurement]:
    """The model and the measurement of a file of scripts/measure.py."""
    measurement = load_measurement(arguments.measurement)
    weights = find_weights(arguments.weights)
    condition = measurement.condition or weights.config.sampling.measured_at(measurement.values)
    return weights.load(condition).to(device), measurement


def save(path: Path, image: np.ndarray) -> None:
    """Write an image file of 8 bits, or the numbers themselves as .npy (channels as RGB).

    Raises:
        ValueError: an image file has no place for so many channels.
    """
    if path.suffix == ".npy":
        write_array(path, color.channels(image, "bands")[0])
        return
    count = 1 if image.ndim == 2 else image.shape[2]
    if count > 3:
        raise ValueError(f"{path} has no place for {count} channels; use a name such as out.npy")
    write_image(path, to_uint8(color.grey_picture(image) if count == 2 else image))


def run(arguments: argparse.Namespace) -> int:
    """Reconstruct one image from a file of y; returns the exit code."""
    try:
        with runtime.start(arguments.device) as here, convolutions(arguments.precision):
            runtime.announce(here, sys.stderr)
            numbers = arguments.matrix or arguments.measurement.suffix.lower() in CAMERA
            model, measurement = (of_camera if numbers else of_file)(arguments, here.device)
            model = prepare(model, arguments.fast, arguments.precision, arguments.max_memory)
            image = reconstruct_image(model, measurement)
        save(arguments.output, image)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ValueError(OUT_OF_MEMORY) from None
    height, width = image.shape[:2]
    print(f"{width} pixels wide and {height} high: written to {printable(arguments.output)}")
    return 0
