"""The work of ``lgmnet reconstruct``."""

import argparse
import sys
from pathlib import Path

import numpy as np

from lgmnet import runtime
from lgmnet.data import color
from lgmnet.data.images import printable, write_array, write_image
from lgmnet.data.values import to_uint8
from lgmnet.speed.inference import prepare
from lgmnet.speed.memory import OUT_OF_MEMORY, out_of_memory
from lgmnet.speed.precision import convolutions
from lgmnet.weights.measurement import load_measurement, reconstruct_image
from lgmnet.weights.saved import find_weights


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
        measurement = load_measurement(arguments.measurement)
        weights = find_weights(arguments.weights)
        condition = measurement.condition or weights.config.sampling.measured_at(measurement.values)
        with runtime.start(arguments.device) as here, convolutions(arguments.precision):
            runtime.announce(here, sys.stderr)
            model = prepare(
                weights.load(condition).to(here.device),
                arguments.fast,
                arguments.precision,
                arguments.max_memory,
            )
            image = reconstruct_image(model, measurement)
        save(arguments.output, image)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ValueError(OUT_OF_MEMORY) from None
    height, width = image.shape[:2]
    print(f"{width} pixels wide and {height} high: written to {printable(arguments.output)}")
    return 0
