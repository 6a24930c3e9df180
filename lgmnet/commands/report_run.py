"""The work of ``lgmnet report``."""

import argparse
import sys

from lgmnet import runtime
from lgmnet.data.datasets import open_test_sets
from lgmnet.evaluation.scoring import Scoring, score_sets
from lgmnet.reports.page import Entry, write_report
from lgmnet.weights.saved import find_weights


def run(arguments: argparse.Namespace) -> int:
    """Score all weights and write the page; returns the exit code."""
    found = [find_weights(name) for name in arguments.weights]
    sets = open_test_sets(arguments.data, runtime.data_roots())
    entries = []
    with runtime.start(arguments.device) as here:
        runtime.announce(here, sys.stderr)
        for weights in found:
            how = Scoring(
                rules=[weights.config.evaluation],
                condition=arguments.at,
                noise_std=arguments.noise_std,
            )
            [results] = score_sets(weights, sets, how, here)
            entries.append(Entry(weights, how, results))
        if here.is_main:
            print(write_report(arguments.output, entries, sets, here, arguments.images))
    return 0
