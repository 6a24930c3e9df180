"""Spectral snapshot imaging (CASSI): all bands of a scene in one picture of a detector."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lgmnet.arrays import read_array
from lgmnet.conversion import ConfigError, require, require_choice
from lgmnet.operators.base import LinearOperator, check_weight, in_full_precision
from lgmnet.operators.sampling import OPERATORS, SamplingConfig, Source

CANVASES = ("crop256", "roll310")
RANDOM = "random"


class CodedAperture(LinearOperator):
    """Multiply every band by a mask, shift band k by step·k columns, and add all bands.

    ΦΦᵀ is diagonal, so `solve` and `project` are one division per pixel of the detector.

    Shapes:
        image:        ``(batch, bands, H, W)``, every band in [0, 1].
        measurement:  ``(batch, 1, H, W + step·(bands − 1))``, a sum of up to ``bands`` values.

    Args:
        mask: the coded aperture, ``(H, W)`` in [0, 1]: the part of the light that passes. It fixes
            the size of an image.
        bands: channels of an image.
        step: the shift from one band to the next, in columns, at least 1.
        canvas: what a network works on. ``crop256``: on the image. ``roll310``: on an image as wide
            as the measurement; the columns beyond W are not measured, and are cut off at the end.
            The numbers are those of a mask of 256 columns; other masks have other numbers.

    Raises:
        ValueError: the mask is no mask, an option is out of range, or an image or a measurement
            does not fit the operator.

    Source:
        A. Wagadarikar, R. John, R. Willett and D. Brady, "Single disperser design for coded
        aperture snapshot spectral imaging", Applied Optics 47(10), 2008. ``roll310`` is what the
        public code of MST and DAUHST does.
    """

    mask: Tensor
    shows = "the snapshot: all bands, shifted and added"

    def __init__(
        self, mask: Tensor, bands: int = 28, step: int = 2, canvas: str = "crop256"
    ) -> None:
        super().__init__()
        for name, value in (("bands", bands), ("step", step)):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if canvas not in CANVASES:
            raise ValueError(f"canvas is '{canvas}', expected one of {', '.join(CANVASES)}")
        self.register_buffer("mask", checked_mask(mask))
        self.channels = bands
        self.step = step
        self.canvas = canvas
        self.size = (mask.shape[0], mask.shape[1])

    @property
    def shifted(self) -> int:
        """Columns by which the last band is shifted."""
        return self.step * (self.channels - 1)

    def measurement_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 1, height, self.mask.shape[1] + self.shifted

    def on_canvas(self) -> LinearOperator:
        """See `LinearOperator.on_canvas`: this operator, or one of wider images."""
        if self.canvas == "crop256":
            return self
        return self.variant(size=(self.mask.shape[0], self.mask.shape[1] + self.shifted))

    @in_full_precision
    def forward(self, image: Tensor) -> Tensor:
        self.check_image(image)
        return self._disperse(image[..., : self.mask.shape[1]] * self.mask)

    @in_full_precision
    def adjoint(self, measurement: Tensor) -> Tensor:
        self._check_measurement(measurement)
        width = self.mask.shape[1]
        bands = measurement[:, 0].unfold(2, width, self.step)
        image = rearrange(bands, "b h k w -> b k h w") * self.mask
        assert self.size is not None
        return F.pad(image, (0, self.size[1] - width))

    def energy(self) -> Tensor:
        """The diagonal of ΦΦᵀ, ``(1, 1, H, W + step·(bands − 1))``."""
        return self._disperse(self.mask.square().expand(1, self.channels, -1, -1))

    @in_full_precision
    def solve(self, image: Tensor, weight: Tensor | float, back_projection: Tensor) -> Tensor:
        """See `LinearOperator.solve`: image + Φᵀ[(y − Φ image) / (weight + ΦΦᵀ)]."""
        check_weight(weight)
        energy = self.energy().to(image.dtype)
        measurement = divided(self(back_projection.to(image.dtype)), energy)
        return image + self.adjoint((measurement - self(image)) / (weight + energy))

    @in_full_precision
    def project(self, image: Tensor, measurement: Tensor) -> Tensor:
        """See `LinearOperator.project`. A detector pixel without light changes nothing."""
        residual = measurement - self(image)
        return image + self.adjoint(divided(residual, self.energy().to(image.dtype)))

    def lipschitz(self) -> float:
        return float(self.energy().max())

    def picture(self) -> Tensor:
        """See `LinearOperator.picture`: the mask."""
        return self.mask.float().cpu()

    def _disperse(self, bands: Tensor) -> Tensor:
        """Shift and add the bands, ``(b, bands, H, W)`` -> ``(b, 1, H, W + step·(bands − 1))``."""
        margins = range(0, self.shifted + 1, self.step)
        parts = zip(bands.unbind(1), margins, strict=True)
        result = bands.new_zeros(len(bands), *self.measurement_shape(*self.mask.shape)[1:])
        for band, left in parts:
            result = result + F.pad(band, (left, self.shifted - left))
        return result[:, None]

    def _check_measurement(self, measurement: Tensor) -> None:
        """Raise ValueError unless the measurement has the shape of this operator."""
        expected = self.measurement_shape(*self.mask.shape)
        if measurement.ndim != 4 or measurement.shape[1:] != expected:
            height, width = self.mask.shape
            raise ValueError(
                f"the measurement has shape {tuple(measurement.shape)}, expected (batch, "
                f"{', '.join(map(str, expected))}): the mask has {height} x {width} pixels, and "
                f"{self.channels} bands are shifted by {self.step} columns each; set bands and "
                "step as the camera has them"
            )

    def extra_repr(self) -> str:
        height, width = self.mask.shape
        shape = ", ".join(map(str, self.measurement_shape(height, width)))
        return (
            f"mask ({height}, {width}), step {self.step}: (batch, {self.channels}, {height}, "
            f"{width}) -> (batch, {shape})"
        )


def divided(numbers: Tensor, divisor: Tensor) -> Tensor:
    """numbers / divisor, and 0 where the divisor is 0."""
    positive = divisor > 0
    return torch.where(positive, numbers / divisor.where(positive, 1), 0)


def checked_mask(mask: Tensor) -> Tensor:
    """The mask as floats.

    Raises:
        ValueError: it is not ``(H, W)``, has values outside [0, 1], or lets no light pass.
    """
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, expected (H, W)")
    mask = mask if mask.is_floating_point() else mask.float()
    if mask.is_meta:  # a shape without values
        return mask
    least, most = float(mask.min()), float(mask.max())
    if not (least >= 0 and most <= 1):
        raise ValueError(
            f"the mask has values from {least:g} to {most:g}, expected 0 (no light passes) to 1 "
            "(all of it); divide by the value of an open pixel"
        )
    if most == 0:
        raise ValueError("the mask is zero everywhere, so no light passes; give another mask")
    return mask


def load_aperture(path: Path) -> Tensor:
    """The mask ``(H, W)`` of a .mat, .npy, .npz or .safetensors file, as float32.

    Raises:
        ValueError: no such file, or it holds no mask.
    """
    _, array = read_array(path, ("mask",), "mask", "'mask'")
    if array.dtype.kind not in "buif":
        raise ValueError(f"the mask in {path} has type {array.dtype}, expected numbers")
    return torch.from_numpy(array.astype(np.float32))


@OPERATORS.register("coded_aperture")
@dataclass(frozen=True, kw_only=True)
class CodedApertureConfig(SamplingConfig):
    """One picture of all bands is measured; see `CodedAperture`."""

    mask: str
    """A file (.mat, .npy, .npz, .safetensors), by path or below the folder of the data; or random:
    a mask of 0 and 1 that is drawn."""
    size: tuple[int, ...] = ()
    """Height and width of images, in pixels: the top left part of the mask in the file, or all of
    it if empty. A mask that is drawn needs it."""
    bands: int = 28
    """Channels of an image."""
    step: int = 2
    """Shift from one band to the next, in columns."""
    canvas: str = "crop256"
    """crop256: networks work on the image; roll310: on an image as wide as the measurement."""
    fraction: float = 0.5
    """Probability of a 1 in a mask that is drawn."""
    mask_seed: int = 0
    """Of a mask that is drawn."""

    compared: ClassVar[tuple[str, ...]] = ("mask", "size", "bands", "step")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("sampling.canvas", self.canvas, CANVASES)
        for name, value in (("bands", self.bands), ("step", self.step)):
            require(value >= 1, f"sampling.{name} is {value}, expected at least 1")
        fits = len(self.size) in (0, 2) and all(side >= 1 for side in self.size)
        require(fits, f"sampling.size is {list(self.size)}, expected [H, W]")
        require(
            bool(self.size) or self.mask != RANDOM,
            "sampling.mask is random, which needs sampling.size=[H,W]",
        )
        require(
            0 < self.fraction <= 1,
            f"sampling.fraction is {self.fraction}, expected 0 < fraction <= 1",
        )

    def sizes(self) -> dict[str, int]:
        return {"image_channels": self.bands}

    @property
    def label(self) -> str:
        """The name of the mask."""
        return Path(self.mask).stem

    @property
    def conditions(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def smallest(self) -> int:
        return min(self.size, default=1)

    def make(self, source: Source) -> CodedAperture:
        try:
            mask = source.tensor(
                "mask", lambda: self._draw() if self.is_drawn else self._load(source)
            )
            return CodedAperture(mask, self.bands, self.step, self.canvas)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(
                f"sampling.mask: {error} (sampling.mask=random draws a mask)"
            ) from None

    @property
    def is_drawn(self) -> bool:
        return self.mask == RANDOM

    def _draw(self) -> Tensor:
        random = torch.Generator().manual_seed(self.mask_seed)
        return (torch.rand(*self.size, generator=random) < self.fraction).float()

    def _load(self, source: Source) -> Tensor:
        if not Path(self.mask).suffix:
            raise ValueError(f"it is '{self.mask}', expected a file, or {RANDOM}")
        mask = load_aperture(source.find(self.mask))
        if not self.size or mask.ndim != 2:
            return mask
        height, width = self.size
        if height > mask.shape[0] or width > mask.shape[1]:
            raise ValueError(
                f"it has {mask.shape[0]} x {mask.shape[1]} pixels, but sampling.size is {height} x "
                f"{width}; give a larger mask, or a smaller size"
            )
        return mask[:height, :width].clone()
