"""The work of ``lgmnet export``."""

import argparse

from lgmnet.data.images import printable
from lgmnet.operators.ratios import condition_of
from lgmnet.weights.export import export_model
from lgmnet.weights.saved import Weights, find_weights


def run(arguments: argparse.Namespace) -> int:
    """Export one model and print the size of its file; returns the exit code."""
    weights = find_weights(arguments.weights)
    if not isinstance(weights, Weights):
        raise ValueError(f"{arguments.weights} contains no trained values; name weights")
    condition = condition_of(arguments.ratio, arguments.at)
    export_model(weights.load(condition), arguments.output, arguments.from_image)
    given = "image" if arguments.from_image else "measurement"
    size = arguments.output.stat().st_size / 1e6
    print(f"{given} -> image: {printable(arguments.output)}, {size:.2f} MB")
    return 0
