"""The half-shuffle Transformer (HST) of DAUHST as a denoiser of spectral images."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lgmnet.models.denoisers import ChannelNorm, complete, depthwise
from lgmnet.unfolding.checks import require_positive

# Side of a window, in pixels.
WINDOW = 8
# Height and width of the images that the tables of `FarAttention` are made for.
USUAL = (256, 320)
# Standard deviation of a table of positions before training.
POSITION_STD = 0.02


class Attention(nn.Module):
    """Attention with a learned number for every pair of positions.

    Args:
        heads: h; each has its own table.
        positions: n.

    Shapes:
        query, key, value: ``(batch, n, h·d)`` -> ``(batch, n, h·d)``.
    """

    def __init__(self, heads: int, positions: int) -> None:
        super().__init__()
        self.heads = heads
        self.table = nn.Parameter(torch.empty(heads, positions, positions))
        nn.init.trunc_normal_(self.table, std=POSITION_STD)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> Tensor:
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in (query, key, value))
        similarity = torch.einsum("b h i d, b h j d -> b h i j", q * q.shape[-1] ** -0.5, k)
        weights = (similarity + table).softmax(-1).type_as(v)
        return rearrange(weights @ v, "b h n d -> b n (h d)")


class NearAttention(Attention):
    """Attention between the pixels of each window."""

    def __init__(self, heads: int) -> None:
        super().__init__(heads, WINDOW**2)

    def of_windows(self, parts: tuple[Tensor, ...], grid: tuple[int, int]) -> Tensor:
        """Query, key and value ``(b, windows, pixels, c)`` -> ``(b, windows, pixels, c)``."""
        count = parts[0].shape[1]
        q, k, v = (t.flatten(0, 1) for t in parts)
        return self(q, k, v, self.table).unflatten(0, (-1, count))


class FarAttention(Attention):
    """Attention between the windows, for each pixel of a window by itself.

    Args:
        scale: of the features; its tables are for images of `USUAL` size.
    """

    def __init__(self, heads: int, scale: int) -> None:
        height, width = (side // scale // WINDOW for side in USUAL)
        super().__init__(heads, height * width)
        self.grid = (height, width)

    def of_windows(self, parts: tuple[Tensor, ...], grid: tuple[int, int]) -> Tensor:
        """See `NearAttention.of_windows`; ``grid``: rows and columns of windows."""
        pixels = parts[0].shape[2]
        q, k, v = (rearrange(t, "b n p c -> (b p) n c") for t in parts)
        result = self(q, k, v, self._resized(grid))
        return rearrange(result, "(b p) n c -> b n p c", p=pixels)

    def _resized(self, grid: tuple[int, int]) -> Tensor:
        """The table for another grid of windows, by bilinear interpolation of both positions."""
        if grid == self.grid:
            return self.table
        table: Tensor = self.table
        for _ in range(2):  # the second position, then the first
            table = table.unflatten(2, self.grid)
            table = F.interpolate(table, size=grid, mode="bilinear").flatten(2).transpose(1, 2)
        return table


class HalfShuffle(nn.Module):
    """Attention in which half of the channels look near, and the other half far.

    With a single head, all look near.

    Shapes:
        ``(batch, channels, H, W)`` in and out; H and W are multiples of 8.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.last = nn.Linear(channels, channels)
        self.near = NearAttention(max(1, heads // 2))
        self.far = FarAttention(heads // 2, heads) if heads > 1 else None

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        grid = (height // WINDOW, width // WINDOW)
        windows = rearrange(features, "b c (h p) (w q) -> b (h w) (p q) c", p=WINDOW, q=WINDOW)
        parts = (self.query(windows), *self.key_value(windows).chunk(2, dim=-1))
        if self.far is None:
            mixed = self.near.of_windows(parts, grid)
        else:
            near, far = zip(*(part.chunk(2, dim=-1) for part in parts), strict=True)
            results = [self.near.of_windows(near, grid), self.far.of_windows(far, grid)]
            mixed = torch.cat(results, dim=-1)
        axes = "b (h w) (p q) c -> b c (h p) (w q)"
        return rearrange(self.last(mixed), axes, h=grid[0], p=WINDOW)


class HalfShuffleBlock(nn.Module):
    """Half-shuffle attention, then a mixing of channels and neighbours; both with a skip."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(ChannelNorm(channels), HalfShuffle(channels, heads))
        self.mixing = nn.Sequential(
            ChannelNorm(channels),
            nn.Conv2d(channels, 4 * channels, 1, bias=False),
            nn.GELU(),
            depthwise(4 * channels),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        features = features + self.attention(features)
        return features + self.mixing(features)


class HST(nn.Module):
    """A U-Net of half-shuffle blocks with three scales; its result is added to the image.

    The three scales have 1, 2 and 4 times ``width`` channels, and as many heads.

    Shapes:
        image ``(batch, inputs, H, W)`` -> ``(batch, outputs, H, W)``. Sides of any length are
        padded by reflection to multiples of 32. The memory grows with the square of the number of
        pixels.

    Paper:     Y. Cai et al., DAUHST, NeurIPS 2022, arXiv:2205.10102.
    Differences from the original: theirs is for images of 256 x 310 pixels. At other sizes the
    tables of positions are interpolated here. 677,352 parameters for 29 inputs, as theirs.
    """

    def __init__(self, inputs: int = 29, outputs: int = 28, width: int = 28) -> None:
        super().__init__()
        require_positive(width=width)
        self.outputs = outputs
        self.first = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        widths = {scale: scale * width for scale in (1, 2, 4)}
        self.encoder = nn.ModuleList(HalfShuffleBlock(widths[s], s) for s in (1, 2))
        self.down = nn.ModuleList(
            nn.Conv2d(c, 2 * c, 4, stride=2, padding=1, bias=False) for c in (width, 2 * width)
        )
        self.middle = HalfShuffleBlock(widths[4], 4)
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(c, c // 2, 2, stride=2) for c in (4 * width, 2 * width)
        )
        self.fuse = nn.ModuleList(nn.Conv2d(2 * c, c, 1, bias=False) for c in (2 * width, width))
        self.decoder = nn.ModuleList(HalfShuffleBlock(widths[s], s) for s in (2, 1))
        self.last = nn.Conv2d(width, outputs, 3, padding=1, bias=False)

    def forward(self, image: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """``variance`` is not used; other denoisers need it."""
        height, width = image.shape[2:]
        features = self.first(complete(image, 4 * WINDOW))
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            skips.append(block(features))
            features = down(skips[-1])
        features = self.middle(features)
        steps = zip(self.upsample, self.fuse, self.decoder, reversed(skips), strict=True)
        for upsample, fuse, block, skip in steps:
            features = block(fuse(torch.cat([upsample(features), skip], dim=1)))
        return image[:, : self.outputs] + self.last(features)[..., :height, :width]
