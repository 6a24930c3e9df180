"""How images are measured, as settings: each operator has a class of them beside it.

The class is registered under the name that ``sampling.operator`` takes, and its fields are the
other keys of ``sampling:``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from lgmnet.conversion import require, require_choice
from lgmnet.operators.base import LinearOperator
from lgmnet.registry import Registry


class Source(Protocol):
    """What operators are made from. Whoever builds a model gives it; see `lgmnet.build.Source`."""

    @property
    def seed(self) -> int:
        """Of whatever is drawn."""

    def tensor(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of this name that was saved with the weights; without weights ``make()``."""

    def find(self, name: str) -> Path:
        """The file of a setting, by path or below the folder of the data."""

    def blocks(self, side: int) -> Tensor | None:
        """Training blocks ``(count, side²)`` in [0, 1]; None where no images are at hand."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(ABC):
    """How an image is measured: ``y = Φx + n``.

    A condition is what one network is scored at: one ratio of a range, one of several masks. It is
    a short text, such as ``r0.05``.
    """

    noise_std: float = 0.0
    """Standard deviation of n, in the unit of y (images are in [0, 1]). A learned Φ may grow, and
    with it the signal: compare networks under noise with a fixed Φ."""

    compared: ClassVar[tuple[str, ...]] = ()
    """The settings that decide whether two scores may be compared."""

    def __post_init__(self) -> None:
        require(self.noise_std >= 0, f"sampling.noise_std is {self.noise_std}, expected >= 0")

    @abstractmethod
    def make(self, source: Source) -> LinearOperator:
        """The operator, for all conditions.

        Raises:
            ConfigError: a setting, a file or a saved tensor does not fit.
        """

    @property
    @abstractmethod
    def label(self) -> str:
        """In names of folders."""

    @property
    @abstractmethod
    def conditions(self) -> tuple[str, ...]:
        """What a network is validated and tested at."""

    def sizes(self) -> dict[str, int]:
        """`LinearOperator.sizes`, known before the operator is made."""
        return {"image_channels": 1}

    @property
    def smallest(self) -> int:
        """Images with a shorter side are left out, in pixels."""
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
        """A condition as it is written in names of folders.

        Raises:
            ConfigError: there is no such condition.
        """
        require_choice("the condition", text, self.conditions)
        return text

    def at(self, operator: LinearOperator, condition: str) -> LinearOperator:
        """What measures at a condition. It shares its tensors with ``operator``.

        Raises:
            ConfigError: there is no such condition.
        """
        self.condition(condition)
        return operator

    def draw(self, operator: LinearOperator, random: np.random.Generator) -> LinearOperator:
        """What one training step measures with, see `at`."""
        return operator

    def describe(self, condition: str) -> dict[str, Any]:
        """A condition in metrics.json."""
        return {"condition": condition}

    @property
    def measured(self) -> str:
        """All conditions in a few words."""
        return self.label

    def title(self, condition: str) -> str:
        """A condition in printed tables."""
        return condition

    def measured_at(self, measurement: Tensor) -> str:
        """The condition of a measurement that does not name it."""
        return self.conditions[0]


OPERATORS: Registry[SamplingConfig] = Registry("operator")
