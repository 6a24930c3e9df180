"""Convolutions and the residual block."""

from torch import Tensor, nn


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Convolution that keeps height and width; with bias."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


class ResidualBlock(nn.Module):
    """``v + conv(relu(conv(v)))``, width preserving.

    Shapes: ``(batch, channels, H, W)`` in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(channels, channels), nn.ReLU(inplace=True), conv3x3(channels, channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)
