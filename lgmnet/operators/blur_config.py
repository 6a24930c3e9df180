"""Blur and downsampling as settings: kernels by formula or from a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from lgmnet.conversion import ConfigError, require
from lgmnet.operators import kernels
from lgmnet.operators.base import LinearOperator
from lgmnet.operators.blur_down import SCALES, BlurDown
from lgmnet.operators.sampling import OPERATORS, SamplingConfig, Source

# The kernels that need no file.
FORMULA = "gaussian"


@OPERATORS.register("blur_down")
@dataclass(frozen=True, kw_only=True)
class BlurDownConfig(SamplingConfig):
    """An image is blurred, and one of s x s pixels is kept; see `BlurDown`.

    The conditions are scale and number of a kernel, such as ``x3_k7``. Training draws one of the
    kernels for every crop.
    """

    scale: int = 2
    """s, 1 to 4."""
    kernels: str = FORMULA
    """gaussian: K1 to K8 by formula; or a file (.mat, .npy, .npz, .safetensors), by path or below
    the folder of the data."""
    kernel_numbers: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Which of the kernels are used, counted from 1."""
    channels: int = 3
    """Of an image: 3 (RGB), or 1 (luma)."""
    lr_quantise: bool = False
    """Whether y is rounded to 8 bits, before noise is added. Without noise it is the same as
    ``quantise: 8`` with ``clip: [0, 1]``, a detector that rounds after the noise."""

    compared: ClassVar[tuple[str, ...]] = ("scale", "kernels", "channels", "lr_quantise")

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = self.kernel_numbers
        require(self.scale in SCALES, f"sampling.scale is {self.scale}, expected 1, 2, 3 or 4")
        require(
            self.channels in (1, 3),
            f"sampling.channels is {self.channels}, expected 1 (luma) or 3 (RGB)",
        )
        require(
            bool(numbers) and min(numbers) >= 1 and len(set(numbers)) == len(numbers),
            f"sampling.kernel_numbers is {list(numbers)}, expected different numbers from 1 on",
        )

    def sizes(self) -> dict[str, int]:
        return {"image_channels": self.channels}

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(f"x{self.scale}_k{number}" for number in self.kernel_numbers)

    @property
    def label(self) -> str:
        """Scale and numbers: ``x3_k7``; of several the first and the last one, ``x3_k1-k8``."""
        first, last = self.conditions[0], self.kernel_numbers[-1]
        return f"{first}-k{last}" if len(self.conditions) > 1 else first

    def make(self, source: Source) -> BlurDown:
        """The operator; its first kernel measures.

        Raises:
            ConfigError: no such file, it holds no kernels, or fewer than are asked for.
        """
        found = source.tensor("kernels", lambda: self._read(source))
        number = len(self.conditions)
        require(
            found.ndim == 3 and len(found) == number,
            f"the kernels have shape {tuple(found.shape)}, but sampling.kernel_numbers names "
            f"{number}",
        )
        try:
            return BlurDown(found, self.scale, self.channels, self.noise_std, self.lr_quantise)
        except ValueError as error:
            raise ConfigError(f"sampling.kernels: {error}") from None

    def _read(self, source: Source) -> Tensor:
        """The kernels that are used, ``(K, h, w)``."""
        if self.kernels != FORMULA and not Path(self.kernels).suffix:
            raise ConfigError(
                f"sampling.kernels is '{self.kernels}', expected a file, or {FORMULA}"
            )
        try:
            held = (
                kernels.gaussians()
                if self.kernels == FORMULA
                else kernels.load_kernels(source.find(self.kernels))
            )
        except ValueError as error:
            raise ConfigError(f"sampling.kernels: {error}") from None
        require(
            max(self.kernel_numbers) <= len(held),
            f"sampling.kernel_numbers asks for kernel {max(self.kernel_numbers)}, but "
            f"{self.kernels} has {len(held)}; name some of 1 to {len(held)}",
        )
        return held[[number - 1 for number in self.kernel_numbers]]

    def at(self, operator: LinearOperator, condition: str) -> BlurDown:
        assert isinstance(operator, BlurDown)
        return operator.choose(self.conditions.index(self.condition(condition)))

    def draw(
        self, operator: LinearOperator, random: np.random.Generator, samples: int = 1
    ) -> BlurDown:
        """A kernel for every sample, all with equal probability."""
        assert isinstance(operator, BlurDown)
        return operator.each(random.integers(len(operator.kernels), size=samples).tolist())
