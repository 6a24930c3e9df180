"""Settings of block sampling: one ratio, or a range of ratios with the first rows of one Φ."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lgmnet.conversion import ConfigError, require, require_choice
from lgmnet.operators import matrices
from lgmnet.operators.base import LinearOperator
from lgmnet.operators.block_sampling import BlockSampling
from lgmnet.operators.hadamard import ORDERINGS, hadamard
from lgmnet.operators.patterns import VALUES, PatternSampling, start_patterns
from lgmnet.operators.sampling import OPERATORS, SamplingConfig, Source

# The ratios of the published tables.
PUBLISHED_RATIOS = (0.01, 0.04, 0.1, 0.25, 0.5)
STARTS = {
    "xavier": matrices.xavier,
    "gaussian": matrices.gaussian,
    "small_gaussian": matrices.small_gaussian,
    "orthonormal": matrices.orthonormal,
}


def ratio_label(ratio: float) -> str:
    """A ratio as a condition, with at least two digits: ``r0.10``, ``r0.125``."""
    return f"r{ratio:.2f}" if float(f"{ratio:.2f}") == ratio else f"r{float(ratio)!r}"


def condition_of(ratio: float | None, condition: str | None) -> str | None:
    """The condition of a command, from ``--ratio 0.05`` or ``--at r0.05``."""
    return condition if ratio is None else ratio_label(ratio)


@OPERATORS.register("block_sampling")
@dataclass(frozen=True, kw_only=True)
class BlockSamplingConfig(SamplingConfig):
    """Settings of `BlockSampling`, which measures every block of an image with one Φ."""

    ratio: float | tuple[float, ...]
    """Sampling ratio m / B², measurements per pixel. It has no default. Two numbers are the
    smallest and the largest ratio of one network for a range."""
    block_size: int = 32
    """Side B of a block, in pixels."""
    rounding: str = "ceil"
    """Rounding of ratio · B² to m: ceil, floor, round, or table33 (published 33 x 33 matrices)."""
    phi: str = "learned"
    """``learned`` with the network; ``orthonormal``: learned, with ΦΦᵀ = I after each step, so that
    the scale of Φ cannot grow; or ``fixed``."""
    phi_init: str = "xavier"
    """Initial Φ: xavier, gaussian, small_gaussian, orthonormal, hadamard, pca (of training blocks),
    or the path of a file."""
    phi_scale: str = "keep"
    """Scale of a Φ from a file: ``keep``, or ``unit`` to divide it by its largest singular value
    ‖Φ‖₂, as for a matrix of ±1, of 0 and 1, or of N(0, 1)."""
    ordering: str = "sequency"
    """Order of the Hadamard patterns: sequency, cake_cutting or zigzag; see `hadamard`."""
    phi_values: str = "real"
    """Values of Φ up to one scale: real, binary (0 or 1), sign (-1 or 1), or 8bit (-128 to 127);
    see `PatternSampling`."""

    compared: ClassVar[tuple[str, ...]] = (
        "block_size", "phi", "phi_init", "ordering", "phi_values",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.limits) == 2 and all(0 < limit <= 1 for limit in self.limits),
            f"sampling.ratio is {self.ratio}, expected 0 < ratio <= 1 "
            "(for 10 % of the pixels write 0.1, for every ratio of a range [0.01, 0.5])",
        )
        require(
            not self.is_range or self.limits[0] < self.limits[1],
            f"sampling.ratio is {self.ratio}, expected the smaller ratio first",
        )
        require(
            not (self.is_range and self.rounding == "table33"),
            "sampling.rounding 'table33' supports eight ratios, not a range; use ceil, floor or "
            "round",
        )
        require(self.block_size >= 1, f"sampling.block_size is {self.block_size}, expected >= 1")
        require_choice("sampling.rounding", self.rounding, ("ceil", "floor", "round", "table33"))
        require_choice("sampling.phi_scale", self.phi_scale, ("keep", "unit"))
        require_choice("sampling.phi", self.phi, ("learned", "orthonormal", "fixed"))
        require_choice("sampling.ordering", self.ordering, tuple(ORDERINGS))
        require_choice("sampling.phi_values", self.phi_values, ("real", *VALUES))
        require(
            self.phi_values == "real" or self.phi != "orthonormal",
            f"sampling.phi is 'orthonormal', but patterns of '{self.phi_values}' values are not; "
            "set sampling.phi=learned, or sampling.phi_values=real",
        )
        require(
            self.phi_init == "hadamard" or self.ordering == "sequency",
            f"sampling.ordering is '{self.ordering}', but only sampling.phi_init=hadamard has an "
            f"ordering, and it is '{self.phi_init}'",
        )

    @property
    def is_range(self) -> bool:
        """Whether this is a range of ratios."""
        return isinstance(self.ratio, tuple)

    @property
    def usual(self) -> str:
        """The largest ratio."""
        return ratio_label(self.limits[1])

    @property
    def resizes(self) -> bool:
        return self.is_range

    @property
    def limits(self) -> tuple[float, ...]:
        """Smallest and largest ratio; equal if this is a single ratio."""
        return self.ratio if isinstance(self.ratio, tuple) else (self.ratio, self.ratio)

    @property
    def scored_ratios(self) -> tuple[float, ...]:
        """The ratios for validation and test.

        This is the single ratio, or the published ratios within the range.
        """
        low, high = self.limits
        published = tuple(r for r in PUBLISHED_RATIOS if low <= r <= high)
        return (published or (low, high)) if self.is_range else (low,)

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(map(ratio_label, self.scored_ratios))

    def sizes(self) -> dict[str, int]:
        return {
            "image_channels": 1,
            "measurements": self.measurements(),
            "block_size": self.block_size,
        }

    @property
    def smallest(self) -> int:
        return self.block_size

    @property
    def label(self) -> str:
        """The ratio as a part of folder names: ``r0.10``, ``r0.01-0.50``."""
        low, high = self.limits
        return f"{ratio_label(low)}-{ratio_label(high)[1:]}" if self.is_range else ratio_label(low)

    def ratio_of(self, condition: str) -> float:
        """The ratio of a condition such as ``r0.10``."""
        try:
            return float(condition.removeprefix("r"))
        except ValueError:
            raise ConfigError(
                f"the condition is '{condition}', expected r and a ratio, such as r0.10"
            ) from None

    def condition(self, text: str) -> str:
        ratio = self.ratio_of(text)
        self.measurements(ratio)
        return ratio_label(ratio)

    def describe(self, condition: str) -> dict[str, Any]:
        return {"ratio": self.ratio_of(condition)}

    @property
    def measured(self) -> str:
        """The ratio, or both limits of the range, in per cent."""
        return " to ".join(f"{100 * limit:g}" for limit in dict.fromkeys(self.limits)) + " %"

    def title(self, condition: str) -> str:
        return f"{100 * self.ratio_of(condition):g} %"

    def measured_at(self, measurement: Tensor) -> str:
        """The ratio of a measurement ``(1, m, H/B, W/B)``, from its number of rows."""
        rows = measurement.shape[1]
        return ratio_label(rows / self.block_size**2 if self.is_range else self.limits[0])

    def measurements(self, ratio: float | None = None) -> int:
        """Rows of Φ, m, at a ratio; by default, at the largest ratio.

        Raises:
            ConfigError: the ratio is not in the range, or the rounding rule does not support it.
        """
        low, high = (self._count(limit) for limit in self.limits)
        if ratio is None:
            return high
        if not (0 < ratio <= 1 and low <= (rows := self._count(ratio)) <= high):
            served = " to ".join(f"{limit:g}" for limit in dict.fromkeys(self.limits))
            raise ConfigError(
                f"the ratio is {ratio:g}, but this network was made for {served}; train another "
                "network for this ratio"
            )
        return rows

    def _count(self, ratio: float) -> int:
        try:
            return matrices.measurement_count(ratio, self.block_size, self.rounding)
        except (ValueError, OverflowError) as error:
            raise ConfigError(f"sampling: {error}") from None

    def make(self, source: Source) -> BlockSampling:
        """The operator of the largest ratio.

        Raises:
            ConfigError: a setting, the file of Φ or the saved Φ is wrong.
        """
        learned, orthonormal = self.phi != "fixed", self.phi == "orthonormal"
        try:
            if self.phi_values == "real":
                matrix = source.tensor("matrix", lambda: self.initial_matrix(source))
                self._check_rows(matrix)
                return BlockSampling(matrix, self.block_size, learned, orthonormal)
            start = cache(lambda: start_patterns(self.initial_matrix(source), self.phi_values))
            patterns = source.tensor("patterns", lambda: start()[0])
            scale = source.tensor("scale", lambda: start()[1])
            self._check_rows(patterns)
            return PatternSampling(patterns, scale, self.phi_values, self.block_size, learned)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def _check_rows(self, matrix: Tensor) -> None:
        expected = self.measurements(), self.block_size**2
        require(
            tuple(matrix.shape) == expected,
            f"Φ has shape {tuple(matrix.shape)}, but ratio {self.ratio}, rounding "
            f"'{self.rounding}' and block size {self.block_size} need {expected}",
        )

    def initial_matrix(self, source: Source) -> Tensor:
        """The initial Φ ``(m, B²)`` of ``phi_init``.

        Without images ``pca`` gives zeros, which are replaced when weights are loaded.
        """
        m, pixels = self.measurements(), self.block_size**2
        if self.phi_init == "pca":
            blocks = source.blocks(self.block_size)
            return torch.zeros(m, pixels) if blocks is None else matrices.pca(blocks, m)
        if self.phi_init == "hadamard":
            return hadamard(m, self.block_size, self.ordering)
        if self.phi_init in STARTS:
            return STARTS[self.phi_init](m, pixels, torch.Generator().manual_seed(source.seed))
        return self._matrix_from_file(m, pixels)

    def _matrix_from_file(self, m: int, pixels: int) -> Tensor:
        path = Path(self.phi_init)
        if not path.suffix:
            raise ConfigError(
                f"sampling.phi_init is '{path}', expected xavier, gaussian, small_gaussian, "
                "orthonormal, hadamard, pca or a file"
            )
        try:
            matrix = matrices.load_matrix(path)
        except ValueError as error:
            raise ConfigError(f"sampling.phi_init: {error}") from None
        try:
            self._check_shape(matrix, m, pixels)
            return matrices.scaled(matrix, self.phi_scale)
        except ValueError as error:
            raise ConfigError(f"sampling.phi_init={path}: {error}") from None

    def _check_shape(self, matrix: Tensor, m: int, pixels: int) -> None:
        """Raise ValueError unless Φ is ``(m, pixels)``; say what is probably meant."""
        rows, columns = matrix.shape
        if columns != pixels and rows == pixels:
            raise ValueError(
                f"Φ has shape ({rows}, {columns}), expected ({m}, {pixels}): it is probably "
                "transposed; save its transpose (a row per measurement, a column per pixel)"
            )
        if columns != pixels:
            side = math.isqrt(columns)
            square = side * side == columns
            raise ValueError(
                f"Φ has {columns} columns, but a block of {self.block_size} x {self.block_size} "
                f"has {pixels} pixels; "
                + (f"set sampling.block_size={side}" if square else "use a Φ with B² columns")
            )
        if rows != m:
            raise ValueError(
                f"Φ measures {rows} numbers per block (ratio {rows / pixels:.4f}), but "
                f"sampling.ratio {self.ratio} with rounding '{self.rounding}' needs {m}; "
                "change the ratio, the rounding or the file"
            )

    def at(self, operator: LinearOperator, condition: str) -> LinearOperator:
        """The operator with the first rows of Φ for this ratio; ``operator`` for a single ratio."""
        rows = self.measurements(self.ratio_of(condition))
        assert isinstance(operator, BlockSampling)
        return operator.first(rows) if self.is_range else operator

    def draw(
        self, operator: LinearOperator, random: np.random.Generator, samples: int = 1
    ) -> LinearOperator:
        """The operator with the first rows of Φ. The logarithm of their number is uniform.

        PSNR grows with the logarithm of the ratio: from 1 to 4 % it gains as many dB as from 10 to
        40 %.
        """
        if not self.is_range:
            return operator
        assert isinstance(operator, BlockSampling)
        low, high = (math.log(self._count(limit)) for limit in self.limits)
        return operator.first(round(math.exp(random.uniform(low, high))))
