"""Numbers of the user's own camera, put in order."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lgmnet.arrays import read_array

CHOICES = {"order": ("blocks", "patterns"), "pairs": ("none", "alternating", "halves")}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """In which order the numbers of a camera stand, and what they mean.

    order: ``blocks``: all patterns of the first block, then those of the next. ``patterns``: the
        first pattern in all blocks, then the next pattern.
    pairs: how the two readings of a pattern with a sign are stored, its positive and its negative
        part: ``none``, ``alternating`` (+ − + −), or ``halves`` (all +, then all −).
    column_major: blocks, and pixels of a block, are numbered down the columns, as in MATLAB. Else
        along the rows.
    dark: the reading without light. It is subtracted.
    white: the reading, without the dark one, of one white pixel under full light.
    """

    order: str = "blocks"
    pairs: str = "none"
    column_major: bool = False
    dark: float = 0.0
    white: float = 1.0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"--{name} is '{value}', expected one of {', '.join(known)}")
        if not (math.isfinite(self.dark) and 0 < self.white < math.inf):
            raise ValueError(
                f"--dark is {self.dark} and --white is {self.white}, expected finite numbers and "
                "white > 0"
            )


def read_values(path: Path) -> np.ndarray:
    """The numbers of a .csv, .txt, .npy, .npz or .mat file, float64, one or two axes.

    The numbers of a text file are separated by commas, semicolons or spaces.

    Raises:
        ValueError: the file is missing, is damaged, or holds something else.
    """
    if path.suffix.lower() in (".csv", ".txt"):
        values = _read_text(path)
    else:
        _, values = read_array(path, ("y", "measurement"), "measurement", "'y'")
    if values.ndim > 2 or values.dtype.kind not in "biuf" or not values.size:
        raise ValueError(
            f"{path} holds {values.dtype} of shape {values.shape}, expected real numbers with one "
            "or two axes"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path} contains NaN or infinity; measure these values again")
    return values.astype(np.float64)


def _read_text(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"there is no measurement {path}; give an existing file")
    try:
        lines = path.read_text(encoding="utf-8-sig").replace(";", " ").replace(",", " ")
        rows = [list(map(float, line.split())) for line in lines.splitlines() if line.strip()]
        return np.array(rows)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); expected numbers only, with a point before the "
            "decimals and equally many in every line"
        ) from None


def arrange(
    values: np.ndarray, m: int, grid: tuple[int, int], layout: Layout, name: str = "the measurement"
) -> Tensor:
    """y ``(1, m, rows, columns)``, float32, from the numbers of a camera.

    Args:
        m: patterns.
        grid: blocks of the image, rows and columns.

    Raises:
        ValueError: there are more or fewer numbers, or their two axes are those of another order.
    """
    blocks, shown = math.prod(grid), m if layout.pairs == "none" else 2 * m
    shape = (blocks, shown) if layout.order == "blocks" else (shown, blocks)
    several = values.ndim == 2 and min(values.shape) > 1
    if values.size != blocks * shown or (several and values.shape != shape):
        raise ValueError(
            f"{name} has {values.size} numbers of shape {values.shape}, expected {shape}: {m} "
            f"patterns{' as pairs' * (shown > m)}, and {grid[0]} x {grid[1]} blocks; check --size, "
            "--order and --pairs"
        )
    table = values.reshape(shape) if layout.order == "blocks" else values.reshape(shape).T
    table = (
        _without_pairs(table, layout.pairs) if shown > m else table - layout.dark
    ) / layout.white
    axes = "(c r) m -> 1 m r c" if layout.column_major else "(r c) m -> 1 m r c"
    return rearrange(torch.from_numpy(table).float(), axes, r=grid[0])


def _without_pairs(table: np.ndarray, pairs: str) -> np.ndarray:
    """``(blocks, m)`` differences of ``(blocks, 2m)`` readings. The dark reading cancels."""
    if pairs == "alternating":
        return table[:, ::2] - table[:, 1::2]
    plus, minus = np.split(table, 2, axis=1)
    return plus - minus
