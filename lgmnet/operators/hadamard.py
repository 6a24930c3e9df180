"""The two-dimensional Hadamard basis of a block, and the order in which its patterns are measured.

A pattern is the outer product of a column and a row of the one-dimensional basis. Both are numbered
by their sign changes: i along the height, j along the width. So the pattern (0, 0) is constant.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor


def _sequency(i: int, j: int, side: int) -> tuple[int, ...]:
    """Fewest sign changes along rows and columns first."""
    return side * (i + j), i * j, i


def _cake_cutting(i: int, j: int, side: int) -> tuple[int, ...]:
    """Fewest connected areas of one sign first, (i + 1)(j + 1); then fewest sign changes.

    Source: W.-K. Yu, "Super sub-Nyquist single-pixel imaging by means of cake-cutting Hadamard
    basis sort", Sensors 19(19):4122, 2019.
    """
    return (i + 1) * (j + 1), i + j, i


def _zigzag(i: int, j: int, side: int) -> tuple[int, ...]:
    """The order in which JPEG reads the coefficients of a block."""
    return i + j, i if (i + j) % 2 else j


ORDERINGS: dict[str, Callable[[int, int, int], tuple[int, ...]]] = {
    "sequency": _sequency,
    "cake_cutting": _cake_cutting,
    "zigzag": _zigzag,
}


def hadamard(m: int, side: int, ordering: str = "sequency") -> Tensor:
    """The first m patterns as rows ``(m, side²)`` with the entries 1/side and -1/side; ΦΦᵀ = I.

    Args:
        side: side of a block in pixels, a power of 2.
        ordering: a key of `ORDERINGS`.

    Raises:
        ValueError: the side is not a power of 2, or the ordering is unknown.
    """
    if side < 1 or side & (side - 1):
        lower = 2 ** max(0, side.bit_length() - 1)
        raise ValueError(
            f"a Hadamard basis needs a block size that is a power of 2, not {side}; set "
            f"sampling.block_size={lower} or {2 * lower}"
        )
    if ordering not in ORDERINGS:
        raise ValueError(f"the ordering is '{ordering}', expected one of {', '.join(ORDERINGS)}")
    rank = ORDERINGS[ordering]
    every = product(range(side), range(side))
    pairs = sorted(every, key=lambda pair: rank(pair[0], pair[1], side))[:m]
    basis = _by_sign_changes(side)
    rows = [np.outer(basis[i], basis[j]).ravel() for i, j in pairs]
    return torch.from_numpy(np.stack(rows).astype(np.float32) / side)


def _by_sign_changes(side: int) -> np.ndarray:
    """The one-dimensional basis ``(side, side)`` of 1 and -1; row i has i sign changes."""
    from scipy.linalg import hadamard as natural

    rows = natural(side)
    changes = (np.diff(rows, axis=1) != 0).sum(1)
    return rows[np.argsort(changes)]
