"""The work of ``lgmnet robustness``."""

import argparse
import sys
from itertools import chain

from tqdm import tqdm

from lgmnet import runtime
from lgmnet.data.datasets import open_test_sets
from lgmnet.data.images import printable
from lgmnet.evaluation.rebuild import Rules
from lgmnet.metrics import find_protocol
from lgmnet.reports.curves import write_curves
from lgmnet.reports.robustness import robustness
from lgmnet.weights.saved import find_weights


def run(arguments: argparse.Namespace) -> int:
    """Test all weights, and write curves and numbers; returns the exit code."""
    weights = {w.name: w for w in map(find_weights, arguments.weights)}
    if len(weights) < len(arguments.weights):
        raise ValueError(f"two of the weights are named alike: {', '.join(arguments.weights)}")
    sets = open_test_sets(arguments.data, runtime.data_roots())
    count, found = sum(map(len, sets)), {}
    with runtime.start(arguments.device) as here:
        runtime.announce(here, sys.stderr)
        for name, each in weights.items():
            own = each.config.evaluation
            rules = Rules(find_protocol(own.protocol), own.color, own.padding)
            model = each.load(arguments.at).to(here.device)
            model.noise_std = 0.0
            with tqdm(total=count, desc=name, unit="image", leave=False) as bar:
                found[name] = robustness(model, chain(*sets), rules, bar.update)
    about = {"images of": ", ".join(s.name for s in sets), "number of images": str(count)}
    for path in write_curves(arguments.output, found, about):
        print(f"written to {printable(path)}")
    return 0
