"""Denoisers for the prior of an unfolding network. They can also be used alone.

Each maps images ``(batch, inputs, H, W)`` to ``(batch, outputs, H, W)``. The first ``outputs``
channels of the input are the image. Other channels describe it, such as its noise level. Sides of
any length are padded by reflection, and the result is cropped.
"""

import itertools

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lgmnet.unfolding.blocks import ResidualBlock, conv3x3
from lgmnet.unfolding.checks import require_positive


def complete(image: Tensor, multiple: int) -> Tensor:
    """Pad an image at the bottom and right to multiples of ``multiple``."""
    height, width = image.shape[2:]
    down, right = -height % multiple, -width % multiple
    if not (down or right):
        return image
    # A reflection needs more pixels than it adds.
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, down), mode=mode)


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv3x3(inputs, outputs), nn.ReLU(), conv3x3(outputs, outputs), nn.ReLU())


class UNet(nn.Module):
    """A plain U-Net with three scales; its result is added to the image.

    The three scales have 1, 2 and 4 times ``width`` channels. Downsampling is max-pooling,
    upsampling is bilinear interpolation and a convolution.
    """

    def __init__(self, inputs: int = 1, outputs: int = 1, width: int = 32) -> None:
        super().__init__()
        require_positive(width=width)
        self.outputs = outputs
        sizes = (width, 2 * width, 4 * width)
        self.encoder = nn.ModuleList(
            double_conv(a, b) for a, b in zip((inputs, *sizes), sizes, strict=False)
        )
        self.upsample = nn.ModuleList(conv3x3(c, c // 2) for c in (sizes[2], sizes[1]))
        self.decoder = nn.ModuleList(double_conv(c, c // 2) for c in (sizes[2], sizes[1]))
        self.last = conv3x3(width, outputs)

    def forward(self, image: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """``variance`` is not used; other denoisers need it."""
        height, width = image.shape[2:]
        full = self.encoder[0](complete(image, 4))
        half = self.encoder[1](F.max_pool2d(full, 2))
        features = self.encoder[2](F.max_pool2d(half, 2))
        for upsample, decoder, skip in zip(self.upsample, self.decoder, (half, full), strict=True):
            larger = F.interpolate(features, scale_factor=2, mode="bilinear")
            features = decoder(torch.cat([skip, upsample(larger)], dim=1))
        return image[:, : self.outputs] + self.last(features)[..., :height, :width]


class ResidualUNet(nn.Module):
    """A U-Net of residual blocks. Strided convolutions go down, transposed ones go up; no bias.

    Skips are added.

    Args:
        inputs, outputs: channels.
        widths: channels at full resolution and at every coarser scale, each half as large.
        blocks: residual blocks of a scale, on each way.
        adds: whether the result is added to the image; otherwise it is the image itself.

    Shapes:
        ``(batch, inputs, H, W)`` -> ``(batch, outputs, H, W)``. Sides of any length: the last row
        and column are repeated, and the result is cropped.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: tuple[int, ...],
        blocks: int = 2,
        adds: bool = False,
    ) -> None:
        super().__init__()
        self.outputs, self.adds = outputs, adds
        require_positive(blocks=blocks, **{f"widths[{k}]": w for k, w in enumerate(widths)})
        scales = list(itertools.pairwise(widths))

        def body(width: int) -> list[nn.Module]:
            return [ResidualBlock(width, bias=False) for _ in range(blocks)]

        self.first = conv3x3(inputs, widths[0], bias=False)
        self.down = nn.ModuleList(
            nn.Sequential(*body(fine), nn.Conv2d(fine, coarse, 2, stride=2, bias=False))
            for fine, coarse in scales
        )
        self.middle = nn.Sequential(*body(widths[-1]))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False), *body(fine))
            for fine, coarse in reversed(scales)
        )
        self.last = conv3x3(widths[0], outputs, bias=False)

    def forward(self, image: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """``variance`` is not used; other denoisers need it."""
        height, width = image.shape[2:]
        multiple = 2 ** len(self.down)
        padded = F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        skips = [self.first(padded)]
        for down in self.down:
            skips.append(down(skips[-1]))
        features = self.middle(skips[-1])
        for up in self.up:
            features = up(features + skips.pop())
        result = self.last(features + skips.pop())[..., :height, :width]
        return image[:, : self.outputs] + result if self.adds else result


def residual_unet(inputs: int = 3, outputs: int = 3, width: int = 16) -> ResidualUNet:
    """The U-Net of USRNet-tiny for width 16; its result is added to the image."""
    return ResidualUNet(inputs, outputs, (width, 2 * width, 4 * width, 4 * width), adds=True)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel of ``(batch, channels, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        pixels = super().forward(rearrange(features, "b c h w -> b h w c"))
        return rearrange(pixels, "b h w c -> b c h w")


def depthwise(channels: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


class ChannelAttention(nn.Module):
    """Attention between channels; the vector of a channel is all its pixels. One head, no bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))
        self.qkv = nn.Sequential(
            nn.Conv2d(channels, 3 * channels, 1, bias=False), depthwise(3 * channels)
        )
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        height = features.shape[2]
        q, k, v = rearrange(self.qkv(features), "b (n c) h w -> n b c (h w)", n=3)
        # Cosines: dividing the few products is cheaper than dividing the pixels. Use bmm, not @,
        # because with @ torch.export makes a program that refuses a single image.
        lengths = q.norm(dim=-1, keepdim=True) * k.norm(dim=-1)[:, None]
        cosines = torch.bmm(q, k.transpose(-2, -1)) / lengths.clamp_min(1e-12)
        mixed = torch.bmm((cosines * self.temperature).softmax(dim=-1).type_as(v), v)
        return self.project(rearrange(mixed, "b c (h w) -> b c h w", h=height))


class TransformerBlock(nn.Module):
    """Attention between channels, then a mixing of channels and neighbours; both with a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(ChannelNorm(channels), ChannelAttention(channels))
        self.mixing = nn.Sequential(
            ChannelNorm(channels),
            nn.Conv2d(channels, 2 * channels, 1, bias=False),
            depthwise(2 * channels),
            nn.GELU(),
            nn.Conv2d(2 * channels, channels, 1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        features = features + self.attention(features)
        return features + self.mixing(features)


class Transformer(nn.Module):
    """Four blocks of channel attention at full resolution; their result is added to the image."""

    def __init__(self, inputs: int = 1, outputs: int = 1, width: int = 16, blocks: int = 4) -> None:
        super().__init__()
        require_positive(width=width, blocks=blocks)
        self.outputs = outputs
        self.first = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*(TransformerBlock(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, outputs, 3, padding=1, bias=False)

    def forward(self, image: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """``variance`` is not used; other denoisers need it."""
        return image[:, : self.outputs] + self.last(self.blocks(self.first(image)))
