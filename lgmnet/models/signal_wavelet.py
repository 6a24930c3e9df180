"""Wavelets of a signal that is stored as an image, row after row."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lgmnet.models.ista_transforms import SCALING_FILTERS, magnitude, shrink
from lgmnet.operators.base import in_full_precision
from lgmnet.registry import require_choice
from lgmnet.unfolding.checks import require_positive


class SignalWavelet(nn.Module):
    """Ψᵀ soft(Ψx, θ), Ψ the orthonormal wavelet transform of a signal, with periodic extension.

    The coarsest band is not thresholded. The result is the mean over shifts of the signal.

    Args:
        wavelet: ``haar`` or ``db4``.
        levels: how many times the coarse band is split.
        shifts: number of shifts, equally spaced over 2^levels samples.

    Shapes:
        image ``(batch, c, H, W)``: c signals of H·W samples, one row after the other; H·W is a
        multiple of 2^levels.
    """

    filters: Tensor

    def __init__(self, wavelet: str, levels: int, shifts: int = 1) -> None:
        super().__init__()
        require_choice("wavelet", wavelet, SCALING_FILTERS)
        require_positive(levels=levels, shifts=shifts)
        self.levels, self.multiple = levels, 2**levels
        if shifts > self.multiple:
            raise ValueError(f"shifts is {shifts}, expected 1 to {self.multiple}")
        self.shifts = [self.multiple * k // shifts for k in range(shifts)]
        low = torch.tensor(SCALING_FILTERS[wavelet], dtype=torch.float64)
        high = low.flip(0) * torch.tensor([1.0, -1.0]).repeat(len(low) // 2)
        filters = torch.stack([low, high])[:, None, None]
        self.register_buffer("filters", filters.float(), persistent=False)

    @in_full_precision
    def forward(self, image: Tensor, threshold: Tensor) -> Tensor:
        """Shapes: image ``(batch, c, H, W)``, threshold ``(batch, 1, 1, 1)``."""
        signal, count = self.signal(image), len(self.shifts)
        shifted = torch.cat([signal.roll(shift, 3) for shift in self.shifts])
        thresholds = threshold.repeat(count, 1, 1, 1)
        coarse, *details = self.analysis(shifted)
        details = [shrink(detail, thresholds, image.shape[1]) for detail in details]
        parts = self.synthesis([coarse, *details]).chunk(count)
        back = [part.roll(-shift, 3) for part, shift in zip(parts, self.shifts, strict=True)]
        return (torch.stack(back).sum(0) / count).reshape(image.shape)

    @in_full_precision
    def largest(self, image: Tensor) -> Tensor:
        """Largest magnitude of the thresholded coefficients per image, ``(batch, 1, 1, 1)``."""
        _, *details = self.analysis(self.signal(image))
        sizes = [magnitude(detail, image.shape[1]) for detail in details]
        return torch.stack([size.amax((1, 2, 3), keepdim=True) for size in sizes]).amax(0)

    def signal(self, image: Tensor) -> Tensor:
        """``(b, c, H, W)`` -> ``(b·c, 1, 1, H·W)``."""
        height, width = image.shape[2:]
        if height * width % self.multiple:
            raise ValueError(
                f"a signal of {height} x {width} samples is no multiple of {self.multiple}; set a "
                f"smaller model.levels than {self.levels}"
            )
        return rearrange(image, "b c h w -> (b c) 1 1 (h w)")

    def analysis(self, signal: Tensor) -> list[Tensor]:
        """``(b, 1, 1, n)`` -> the coarsest band, then the details from coarse to fine."""
        details = []
        for _ in range(self.levels):
            periodic = signal[..., self.positions(signal.shape[3], signal.device)]
            signal, detail = F.conv2d(periodic, self.filters, stride=(1, 2)).split(1, dim=1)
            details.append(detail)
        return [signal, *reversed(details)]

    def synthesis(self, bands: list[Tensor]) -> Tensor:
        """The transpose of `analysis`, which is its inverse."""
        signal = bands[0]
        for detail in bands[1:]:
            both = torch.cat([signal, detail], 1)
            wide = F.conv_transpose2d(both, self.filters, stride=(1, 2))
            length = 2 * detail.shape[3]
            signal = wide.new_zeros((*wide.shape[:3], length))
            signal = signal.index_add(3, self.positions(length, wide.device), wide)
        return signal

    def positions(self, length: int, device: torch.device) -> Tensor:
        """Indices of all samples, and of the further samples that the filters read."""
        return torch.arange(length + self.filters.shape[3] - 2, device=device) % length
