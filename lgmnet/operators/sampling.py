"""Settings of the measurement. Each operator has a class with its settings.

The class is registered under the value of ``sampling.operator``. Its fields are the other keys of
``sampling:``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import inf, isfinite
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from lgmnet.conversion import require, require_choice
from lgmnet.operators.base import LinearOperator
from lgmnet.operators.detector import Detector
from lgmnet.registry import Registry

# Bits of a detector; float32 holds no more.
MOST_BITS = 24


class Source(Protocol):
    """Tensors, files and images for an operator. See `lgmnet.build.Source`."""

    @property
    def seed(self) -> int:
        """Seed of random tensors."""

    def tensor(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of this name from the weights; without weights, ``make()``."""

    def find(self, name: str) -> Path:
        """The path of a file that a setting names, by path or below the data folder."""

    def blocks(self, side: int) -> Tensor | None:
        """Training blocks ``(count, side²)`` in [0, 1]; None if there are no images."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(ABC):
    """How an image is measured: ``y = Φx + n``.

    A condition is one way to measure among those of a network: one ratio of a range, or one of
    several masks. It is a short text, such as ``r0.05``.
    """

    noise_std: float = 0.0
    """Standard deviation of n, in the unit of y (images are in [0, 1]). A learned Φ may grow, which
    increases the signal. To compare networks with noise, use a fixed Φ."""

    gain: float = 1.0
    """The detector gives gain · y + offset. The network is not told: an error of calibration."""
    offset: float = 0.0
    """In the unit of y; see ``gain``."""
    photons: float = 0.0
    """Counted photons for a value 1 of y, which gives Poisson noise; 0: none. A negative value is
    counted as light of its size. The two patterns of a difference have more light and noise."""
    clip: tuple[float, ...] = ()
    """Range [low, high] of the detector, in the unit of y. Empty: no clipping, and the steps of
    ``quantise`` span the values of each image."""
    quantise: int = 0
    """Bits of the detector, 1 to 24; 0: real numbers."""
    dither: bool = False
    """Add uniform noise of one step before rounding."""

    compared: ClassVar[tuple[str, ...]] = ()
    """The settings that decide whether two scores can be compared."""

    def __post_init__(self) -> None:
        require(self.noise_std >= 0, f"sampling.noise_std is {self.noise_std}, expected >= 0")
        for name, value in (
            ("gain", self.gain),
            ("offset", self.offset),
            ("photons", self.photons),
        ):
            require(isfinite(value), f"sampling.{name} is {value}, expected a finite number")
        require(self.gain > 0, f"sampling.gain is {self.gain}, expected > 0")
        require(self.photons >= 0, f"sampling.photons is {self.photons}, expected >= 0")
        require(
            not self.clip or (len(self.clip) == 2 and -inf < self.clip[0] < self.clip[1] < inf),
            f"sampling.clip is {list(self.clip)}, expected [low, high], such as [0, 1]",
        )
        require(
            0 <= self.quantise <= MOST_BITS,
            f"sampling.quantise is {self.quantise}, expected 1 to {MOST_BITS} bits, or 0 for none",
        )
        require(
            self.quantise > 0 or not self.dither,
            "sampling.dither needs steps; set sampling.quantise to a number of bits",
        )

    @property
    def detector(self) -> Detector:
        """What the detector does to y, besides Gaussian noise."""
        return Detector(**{f.name: getattr(self, f.name) for f in fields(Detector)})

    @abstractmethod
    def make(self, source: Source) -> LinearOperator:
        """The operator, for all conditions.

        Raises:
            ConfigError: a setting, a file or a saved tensor is wrong.
        """

    @property
    @abstractmethod
    def label(self) -> str:
        """The settings as a part of folder names."""

    @property
    @abstractmethod
    def conditions(self) -> tuple[str, ...]:
        """The conditions for validation and test."""

    def sizes(self) -> dict[str, int]:
        """The values of `LinearOperator.sizes`, without making the operator."""
        return {"image_channels": 1}

    @property
    def smallest(self) -> int:
        """Smallest side of an image, in pixels. Smaller images are left out."""
        return 1

    @property
    def usual(self) -> str:
        """The condition of a model that is loaded without one."""
        return self.conditions[0]

    @property
    def resizes(self) -> bool:
        """Whether the number of measurements differs between conditions."""
        return False

    def condition(self, text: str) -> str:
        """A condition in the form of folder names.

        Raises:
            ConfigError: there is no such condition.
        """
        require_choice("the condition", text, self.conditions)
        return text

    def at(self, operator: LinearOperator, condition: str) -> LinearOperator:
        """The operator of a condition. It shares its tensors with ``operator``.

        Raises:
            ConfigError: there is no such condition.
        """
        self.condition(condition)
        return operator

    def draw(
        self, operator: LinearOperator, random: np.random.Generator, samples: int = 1
    ) -> LinearOperator:
        """The operator of one training step; see `at`.

        Args:
            samples: crops of the step, of all processes. Each may be measured differently, see
                `LinearOperator.part`.
        """
        return operator

    def describe(self, condition: str) -> dict[str, Any]:
        """A condition in metrics.json."""
        return {"condition": condition}

    @property
    def measured(self) -> str:
        """All conditions as a short text."""
        return self.label

    def title(self, condition: str) -> str:
        """A condition in printed tables."""
        return condition

    def measured_at(self, measurement: Tensor) -> str:
        """The condition of a measurement that does not name it."""
        return self.conditions[0]


OPERATORS: Registry[SamplingConfig] = Registry("operator")
