"""Orthonormal transforms Ψ of images, and thresholding of their coefficients."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lgmnet.operators.base import in_full_precision
from lgmnet.registry import require_choice
from lgmnet.unfolding.blocks import soft_threshold
from lgmnet.unfolding.checks import require_positive

# Scaling filters of I. Daubechies, "Orthonormal bases of compactly supported wavelets", 1988,
# with one and with four vanishing moments.
SCALING_FILTERS = {
    "haar": (0.5**0.5, 0.5**0.5),
    "db4": (
        0.23037781330885523, 0.7148465705525415, 0.6308807679295904, -0.02798376941698385,
        -0.18703481171888114, 0.030841381835986965, 0.032883011666982945, -0.010597401784997278,
    ),
}  # fmt: skip


class BlockDCT(nn.Module):
    """Two-dimensional DCT-II of every ``side x side`` block.

    A transform converts an image ``(batch, 1, H, W)`` to bands ``(batch, ...)`` of four axes, and
    back. H and W are multiples of ``multiple``. The first band (here DC) is never thresholded.
    """

    matrix: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.multiple = side
        self.register_buffer("matrix", dct_matrix(side).float(), persistent=False)

    def analysis(self, image: Tensor) -> list[Tensor]:
        side = self.multiple
        blocks = rearrange(image, "b 1 (h p) (w q) -> b h w p q", p=side, q=side)
        code = (self.matrix @ blocks @ self.matrix.T).flatten(3)
        return [code[..., :1], code[..., 1:]]

    def synthesis(self, bands: list[Tensor]) -> Tensor:
        code = rearrange(torch.cat(bands, -1), "b h w (p q) -> b h w p q", p=self.multiple)
        return rearrange(self.matrix.T @ code @ self.matrix, "b h w p q -> b 1 (h p) (w q)")


def dct_matrix(side: int) -> Tensor:
    """The matrix of the orthonormal DCT-II, ``(side, side)``, float64; rows are frequencies."""
    frequency = torch.arange(side, dtype=torch.float64)[:, None]
    position = torch.arange(side, dtype=torch.float64) + 0.5
    rows = math.sqrt(2 / side) * torch.cos(math.pi / side * frequency * position)
    rows[0] /= math.sqrt(2)
    return rows


class Wavelet(nn.Module):
    """Orthonormal wavelets with periodic extension; bands as `BlockDCT` describes them.

    Args:
        name: ``haar`` or ``db4``.
        levels: how many times the coarse band is split.
    """

    filters: Tensor

    def __init__(self, name: str, levels: int) -> None:
        super().__init__()
        require_choice("wavelet", name, SCALING_FILTERS)
        require_positive(levels=levels)
        self.levels = levels
        self.multiple = 2**levels
        low = torch.tensor(SCALING_FILTERS[name], dtype=torch.float64)
        high = low.flip(0) * torch.tensor([1.0, -1.0]).repeat(len(low) // 2)
        pair = torch.stack([low, high])
        filters = torch.einsum("ik,jl->ijkl", pair, pair).flatten(0, 1)[:, None]
        self.register_buffer("filters", filters.float(), persistent=False)

    def analysis(self, image: Tensor) -> list[Tensor]:
        details = []
        for _ in range(self.levels):
            bands = self.split(image)
            image, detail = bands[:, :1], bands[:, 1:]
            details.append(detail)
        return [image, *reversed(details)]

    def synthesis(self, bands: list[Tensor]) -> Tensor:
        image = bands[0]
        for detail in bands[1:]:
            image = self.join(torch.cat([image, detail], 1))
        return image

    def split(self, image: Tensor) -> Tensor:
        """One level: ``(b, 1, h, w)`` -> ``(b, 4, h/2, w/2)``."""
        rows, columns = (self.periodic(side, image.device) for side in image.shape[2:])
        return F.conv2d(image[:, :, rows][..., columns], self.filters, stride=2)

    def join(self, bands: Tensor) -> Tensor:
        """The transpose of `split`, which is its inverse."""
        wide = F.conv_transpose2d(bands, self.filters, stride=2)
        for axis in (2, 3):
            side = 2 * bands.shape[axis]
            index = self.periodic(side, bands.device)
            shape = [side if k == axis else size for k, size in enumerate(wide.shape)]
            wide = wide.new_zeros(shape).index_add(axis, index, wide)
        return wide

    def periodic(self, side: int, device: torch.device) -> Tensor:
        """Indices of ``side`` pixels, and of the further pixels that the filters read."""
        return torch.arange(side + self.filters.shape[-1] - 2, device=device) % side


class SparsePrior(nn.Module):
    """Ψᵀ soft(Ψx, θ): the proximal mapping of θ‖Ψx‖₁ without the first band.

    Args:
        transform: Ψ.
        shifts: shifts of Ψ along each axis; the result is the mean over the shifts (cycle
            spinning).

    A mean of proximal mappings is the proximal mapping of another convex function. The same is
    true after zero padding. So ISTA converges.
    """

    def __init__(self, transform: BlockDCT | Wavelet, shifts: int = 1) -> None:
        super().__init__()
        if not 1 <= shifts <= transform.multiple:
            raise ValueError(f"shifts is {shifts}, expected 1 to {transform.multiple}")
        self.transform = transform
        offsets = [transform.multiple * k // shifts for k in range(shifts)]
        self.shifts = [(row, column) for row in offsets for column in offsets]

    @in_full_precision
    def forward(self, image: Tensor, threshold: Tensor) -> Tensor:
        """Shapes: image ``(batch, c, H, W)``, threshold ``(batch, 1, 1, 1)``.

        With several channels, the magnitude of their coefficients is thresholded.
        """
        count, height, width = image.shape[1:]
        whole = self.complete(image)
        total = torch.zeros_like(whole)
        for row, column in self.shifts:
            coarse, *details = self.transform.analysis(whole.roll((row, column), (2, 3)))
            details = [shrink(detail, threshold, count) for detail in details]
            total += self.transform.synthesis([coarse, *details]).roll((-row, -column), (2, 3))
        total = rearrange(total, "(b c) 1 h w -> b c h w", c=count)
        return total[..., :height, :width] / len(self.shifts)

    @in_full_precision
    def largest(self, image: Tensor) -> Tensor:
        """Largest magnitude of the thresholded coefficients per image, ``(batch, 1, 1, 1)``."""
        _, *details = self.transform.analysis(self.complete(image))
        sizes = [magnitude(detail, image.shape[1]) for detail in details]
        return torch.stack([size.amax((1, 2, 3), keepdim=True) for size in sizes]).amax(0)

    def complete(self, image: Tensor) -> Tensor:
        """Make every channel a separate image, and pad with zeros to the multiples of Ψ."""
        image = rearrange(image, "b c h w -> (b c) 1 h w")
        height, width = image.shape[2:]
        multiple = self.transform.multiple
        return F.pad(image, (0, -width % multiple, 0, -height % multiple))


def magnitude(band: Tensor, channels: int) -> Tensor:
    """Magnitude over the channels: ``(b·channels, ...)`` -> ``(b, ...)``."""
    return band.abs() if channels == 1 else band.unflatten(0, (-1, channels)).norm(dim=1)


def shrink(band: Tensor, threshold: Tensor, channels: int) -> Tensor:
    """Soft thresholding of the `magnitude` of coefficients ``(b·channels, ...)``."""
    if channels == 1:
        return soft_threshold(band, threshold)
    size = magnitude(band, channels)
    factor = F.relu(1 - threshold / size.clamp_min(torch.finfo(size.dtype).tiny))
    return band * factor.repeat_interleave(channels, 0)
