"""The dual-path fusion block of CPP-Net as a denoiser."""

import torch
from torch import Tensor, nn

from lgmnet.models.denoisers import ChannelNorm, complete, depthwise
from lgmnet.unfolding.blocks import conv1x1, soft_threshold

# The hidden layer of a gate divides the number of channels by this.
REDUCTION = 8


def gate(channels: int, bias: bool) -> nn.Sequential:
    """A small network from features to factors in (0, 1)."""
    hidden = channels // REDUCTION
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=bias),
        nn.GELU(),
        nn.Conv2d(hidden, channels, 1, bias=bias),
        nn.Sigmoid(),
    )


class GatedBlock(nn.Module):
    """DCAB: depthwise convolution, a mixing of channels and a gate per channel, with a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            depthwise(channels, bias=True),
            ChannelNorm(channels),
            conv1x1(channels, 4 * channels),
            nn.GELU(),
            conv1x1(4 * channels, channels),
        )
        self.gate = gate(channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        change = self.body(features)
        return features + change * self.gate(change.mean((2, 3), keepdim=True))


class StripAttention(nn.Module):
    """MSCA: gates from outer products of the row and column means of two scales.

    Shapes:
        fine: ``(batch, c, H, W)``; coarse: ``(batch, s c, H/s, W/s)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = gate(channels, bias=True)
        self.key = gate(channels, bias=True)
        self.value = nn.Sequential(
            depthwise(channels, bias=True), nn.GELU(), conv1x1(channels, channels)
        )

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        rows, columns = fine.mean(3, keepdim=True), fine.mean(2, keepdim=True)
        # The means of s c channels are reshaped to s times longer means of c channels.
        coarse_rows = coarse.mean(3).reshape(rows.shape)
        coarse_columns = coarse.mean(2).reshape(columns.shape)
        gates = self.query(rows * coarse_columns) * self.key(coarse_rows * columns)
        return self.value(fine) * gates


class Fusion(nn.Module):
    """MSTB: add information of a coarser scale to a finer scale."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ChannelNorm(c) for c in (fine, coarse, fine))
        self.attention = StripAttention(fine)
        self.block = GatedBlock(fine)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        fine = self.norms[0](fine)
        fine = fine + self.attention(fine, self.norms[1](coarse))
        return self.block(self.norms[2](fine))


class Halve(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 2 * channels, 2, stride=2), ChannelNorm(2 * channels))


class Double(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.body = nn.Sequential(ChannelNorm(channels // 2), GatedBlock(channels // 2))

    def forward(self, features: Tensor) -> Tensor:
        return self.body(self.upsample(features))


class DualPath(nn.Module):
    """Two paths, one for the image and one for its thresholded features, fused at each scale.

    Args:
        inputs, outputs: channels of the input (the image and, if used, its noise level) and of
            the output.
        width: channels at full resolution; the three coarser scales have 2, 4 and 8 times as many.

    Shapes:
        image ``(batch, inputs, H, W)`` -> ``(batch, outputs, H, W)``.

    Paper:     the denoiser of CPP-Net, as LoRun names it.
    Differences from the original: CPP-Net has one stem per network, on its first estimate. Here
    the stem is a part of the denoiser and reads the image of the stage. The dual variable is left
    out. 1,741,789 parameters, 449 fewer than the stem and one iteration of CPP-Net.
    """

    def __init__(self, inputs: int = 1, outputs: int = 1, width: int = 32) -> None:
        super().__init__()
        if width < REDUCTION:
            raise ValueError(f"width is {width}, expected at least {REDUCTION}; gates divide by it")
        widths = [width * s for s in (1, 2, 4, 8)]
        self.memory = nn.ModuleList([
            nn.Sequential(conv1x1(inputs, width), GatedBlock(width)),
            Halve(widths[0]),
            nn.Sequential(GatedBlock(widths[1]), Halve(widths[1])),
            nn.Sequential(GatedBlock(widths[2]), Halve(widths[2])),
        ])  # fmt: skip
        self.first = nn.Sequential(conv1x1(inputs, width), depthwise(width, bias=True))
        self.down = nn.ModuleList(nn.Sequential(GatedBlock(c), Halve(c)) for c in widths[:3])
        self.threshold = gate(width, bias=True)
        self.middle = GatedBlock(widths[3])
        self.up = nn.ModuleList(Double(c) for c in widths[:0:-1])
        self.fuse = nn.ModuleList(Fusion(width, c) for c in widths[:0:-1])
        self.merge = nn.Sequential(
            GatedBlock(3 * width), conv1x1(3 * width, width), GatedBlock(width)
        )
        self.last = nn.Sequential(GatedBlock(width), conv1x1(width, outputs))

    def forward(self, image: Tensor, variance: Tensor | float = 0.25) -> Tensor:
        """``variance``: of the noise in the image; it scales the threshold of the features."""
        height, width = image.shape[2:]
        image = complete(image, 8)
        memory = [self.memory[0](image)]
        for scale in self.memory[1:]:
            memory.append(scale(memory[-1]))
        path = [self.first(image)]
        for down, remembered in zip(self.down, memory[1:], strict=True):
            path.append(down(path[-1]) + remembered)
        path[0] = self._shrink(path[0], variance)
        coarse, fused = self.middle(path[3]), path[0]
        for up, fuse, skip in zip(self.up, self.fuse, path[2::-1], strict=True):
            fused = fuse(fused, coarse)
            coarse = up(coarse) + skip
        merged = self.merge(torch.cat([memory[0], fused, coarse], dim=1))
        return self.last(merged)[..., :height, :width]

    def _shrink(self, features: Tensor, variance: Tensor | float) -> Tensor:
        """Add the soft-thresholded features; each channel has its own threshold."""
        level = features.mean((2, 3), keepdim=True) * variance
        return features + soft_threshold(features, self.threshold(level) * level)
