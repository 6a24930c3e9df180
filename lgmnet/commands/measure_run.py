"""The work of ``lgmnet measure``."""

import argparse
import sys

from lgmnet import runtime
from lgmnet.data.images import printable, read_pixels
from lgmnet.operators.ratios import condition_of
from lgmnet.weights.measurement import (
    measure_image,
    measured_numbers,
    measured_size,
    save_measurement,
)
from lgmnet.weights.saved import load


def run(arguments: argparse.Namespace) -> int:
    """Measure one image and write y; returns the exit code."""
    with runtime.start(arguments.device) as here:
        runtime.announce(here, sys.stderr)
        condition = condition_of(arguments.ratio, arguments.at)
        model = load(arguments.weights, condition=condition).to(here.device)
        model.noise_std = arguments.noise_std
        pixels = read_pixels(arguments.image)
        measurement = measure_image(model, pixels, arguments.image.stem, condition)
    save_measurement(arguments.output, measurement)
    count, area = measured_numbers(model, measurement), measurement.height * measurement.width
    height, width = measured_size(model, measurement)
    padded = f" (with padding {height} x {width})" if height * width > area else ""
    output = printable(arguments.output)
    print(f"{area:,} pixels{padded} -> {count:,} numbers ({count / area:.1%}): {output}")
    return 0
