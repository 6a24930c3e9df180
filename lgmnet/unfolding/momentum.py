"""How far an accelerated algorithm goes beyond its last estimate, iteration by iteration."""

import itertools
import math
from collections.abc import Iterator


def no_momentum() -> Iterator[float]:
    return itertools.repeat(0.0)


def nesterov_momentum() -> Iterator[float]:
    """(t − 1) / t⁺ with t = 1 at first and t⁺ = (1 + √(1 + 4 t²)) / 2."""
    t = 1.0
    while True:
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        yield (t - 1) / following
        t = following
