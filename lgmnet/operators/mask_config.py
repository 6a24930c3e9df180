"""Settings of Fourier masks: masks from files, or one random mask."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lgmnet.conversion import ConfigError, require
from lgmnet.operators import masks
from lgmnet.operators.base import LinearOperator
from lgmnet.operators.fourier_mask import FourierMask
from lgmnet.operators.sampling import OPERATORS, SamplingConfig, Source


@OPERATORS.register("fourier_mask")
@dataclass(frozen=True, kw_only=True)
class FourierMaskConfig(SamplingConfig):
    """Settings of `FourierMask`, which measures some frequencies of the whole image.

    The conditions are the names of the masks.
    """

    mask: str | tuple[str, ...]
    """A mask file (.mat, .npy, .npz, .safetensors), by path or below the data folder; or several
    files for one network; or a kind of random mask: pseudo_radial, cartesian, variable_density."""
    centred: bool = False
    """The zero frequency of the mask files is in the middle, not at [0, 0]."""
    complex: bool = False
    """Images are complex: two channels, real and imaginary part."""
    size: tuple[int, ...] = (256, 256)
    """Height and width of a random mask, in pixels."""
    fraction: float = 0.2
    """Sampling ratio of a random mask: measured frequencies divided by all frequencies."""
    centre_fraction: float = 0.08
    """For cartesian: share of the rows that is measured around the zero frequency."""
    mask_seed: int = 0
    """Seed of a random mask."""

    compared: ClassVar[tuple[str, ...]] = ("mask", "complex")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.files), "sampling.mask is empty; name a file, or a kind of random mask")
        require(len(self.size) == 2, f"sampling.size is {list(self.size)}, expected [H, W]")
        twice = next((n for n in self.conditions if self.conditions.count(n) > 1), None)
        require(
            twice is None,
            f"sampling.mask has two files with the name '{twice}'; give each mask another name",
        )

    @property
    def files(self) -> tuple[str, ...]:
        return self.mask if isinstance(self.mask, tuple) else (self.mask,)

    @property
    def is_drawn(self) -> bool:
        return self.mask in masks.KINDS

    def sizes(self) -> dict[str, int]:
        return {"image_channels": 2 if self.complex else 1}

    @property
    def conditions(self) -> tuple[str, ...]:
        if self.is_drawn:
            return (f"{self.mask}_{self.fraction:g}",)
        return tuple(Path(file).stem for file in self.files)

    @property
    def label(self) -> str:
        """The name of the mask; for several masks, the first and the last name."""
        first, *others = self.conditions
        return f"{first}-{others[-1]}" if others else first

    def make(self, source: Source) -> FourierMask:
        """The operator, with the first mask.

        Raises:
            ConfigError: a file is missing or does not contain a mask, or the masks differ in size.
        """
        found = source.tensor("masks", lambda: self._read(source))
        number = len(self.conditions)
        require(
            found.ndim == 3 and len(found) == number,
            f"the masks have shape {tuple(found.shape)}, but sampling.mask names {number}",
        )
        try:
            return FourierMask(found, channels=2 if self.complex else 1)
        except ValueError as error:
            raise ConfigError(f"sampling.mask: {error}") from None

    def _read(self, source: Source) -> Tensor:
        """The masks, ``(K, H, W)``, uncentred."""
        try:
            found = self._draw_mask() if self.is_drawn else self._load(source)
        except ValueError as error:
            raise ConfigError(f"sampling.mask: {error}") from None
        return torch.stack(found)

    def _draw_mask(self) -> list[Tensor]:
        height, width = self.size
        kind = str(self.mask)
        size = (height, width)
        return [masks.drawn(kind, size, self.fraction, self.centre_fraction, self.mask_seed)]

    def _load(self, source: Source) -> list[Tensor]:
        for file in self.files:
            if not Path(file).suffix:
                raise ValueError(
                    f"it is '{file}', expected a file, or one of {', '.join(masks.KINDS)}"
                )
        found = [masks.load_mask(source.find(file), self.centred) for file in self.files]
        sizes = {tuple(mask.shape) for mask in found}
        if len(sizes) > 1:
            raise ValueError(f"the masks have the sizes {sorted(sizes)}, expected one size")
        return found

    def at(self, operator: LinearOperator, condition: str) -> FourierMask:
        assert isinstance(operator, FourierMask)
        return operator.choose(self.conditions.index(self.condition(condition)))

    def draw(
        self, operator: LinearOperator, random: np.random.Generator, samples: int = 1
    ) -> FourierMask:
        """One of the masks, all with equal probability."""
        assert isinstance(operator, FourierMask)
        return operator.choose(int(random.integers(len(operator.masks))))
