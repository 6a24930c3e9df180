"""Convolutions, the residual block, the soft threshold, and splitting images into blocks."""

import math

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def conv3x3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    """Convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


class ResidualBlock(nn.Module):
    """``v + conv(relu(conv(v)))``.

    Shapes: ``(batch, channels, H, W)`` in and out.
    """

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(channels, channels, bias),
            nn.ReLU(inplace=True),
            conv3x3(channels, channels, bias),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)


def bottleneck(channels: int, width: int) -> nn.Sequential:
    """1 x 1 to ``width``, two residual blocks, 1 x 1 back: the prior of PRL and LGM-Net."""
    return nn.Sequential(
        conv1x1(channels, width),
        ResidualBlock(width),
        ResidualBlock(width),
        conv1x1(width, channels),
    )


def soft_threshold(values: Tensor, threshold: Tensor | float) -> Tensor:
    """sign(v) max(|v| − θ, 0). A negative θ, possible after training, enlarges every value."""
    return values.sign() * F.relu(values.abs() - threshold)


def split_measurement(measurement: Tensor) -> Tensor:
    """``(b, m, h, w)`` -> ``(b h w, m, 1, 1)``: each block as a separate image."""
    return rearrange(measurement, "b m h w -> (b h w) m 1 1")


def split_blocks(image: Tensor, side: int) -> Tensor:
    """Images ``(b, c, H, W)`` -> ``(b H/side W/side, c, side, side)``."""
    return rearrange(image, "b c (h p) (w q) -> (b h w) c p q", p=side, q=side)


def join_blocks(blocks: Tensor, rows: int, columns: int) -> Tensor:
    """``(b rows columns, c, B, B)`` -> images ``(b, c, rows B, columns B)``."""
    return rearrange(blocks, "(b h w) c p q -> b c (h p) (w q)", h=rows, w=columns)


def radius(module: nn.Module) -> int:
    """Radius of the receptive field of a module whose layers run one after the other.

    In pixels of its input. All layers must be at the same scale.
    """
    total = 0
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            total += max(0, layer.kernel_size[0] - layer.stride[0] + 1) // 2
        elif isinstance(layer, nn.Upsample):
            total += 1
    return total


def blocks_beyond(module: nn.Module, block_size: int) -> int:
    """Radius of the receptive field of a module, in blocks, rounded up."""
    return math.ceil(radius(module) / block_size)
