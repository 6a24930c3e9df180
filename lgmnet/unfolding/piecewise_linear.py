"""Learned functions of one variable, linear between knots."""

import torch
from einops import rearrange
from torch import Tensor, nn

from lgmnet.operators.base import in_full_precision


def knots(count: int) -> Tensor:
    """``count`` equally spaced points from -1 to 1.

    Raises:
        ValueError: ``count`` is less than 2.
    """
    if count < 2:
        raise ValueError(f"knots is {count}, expected at least 2")
    return torch.linspace(-1, 1, count)


class PiecewiseLinear(nn.Module):
    """A learned function for every channel, linear between its values at the `knots`.

    It has one slope below the first knot and one above the last knot.

    Args:
        channels: C.
        start: ``(count,)`` initial values at the knots, the same for every channel.
        end_slope: the two outer slopes; the initial value if they are learned.
        learned_ends: learn the two outer slopes.

    Shapes:
        ``(batch, C, H, W)`` in and out, in any unit; the knots are in [-1, 1].

    Source:
        Y. Yang et al., "Deep ADMM-Net for compressive sensing MRI", NIPS 2016, whose slope is 1.
    """

    def __init__(
        self, channels: int, start: Tensor, end_slope: float = 1.0, learned_ends: bool = False
    ) -> None:
        super().__init__()
        self.values = nn.Parameter(start.repeat(channels, 1))
        self.end_slope = end_slope
        self.end_slopes = (
            nn.Parameter(torch.full((channels, 2), end_slope)) if learned_ends else None
        )

    @in_full_precision
    def forward(self, features: Tensor) -> Tensor:
        rows = rearrange(features, "b c h w -> c (b h w)")
        beyond = (rows + 1).clamp(max=0), (rows - 1).clamp(min=0)
        if self.end_slopes is None:
            ends = self.end_slope * (beyond[0] + beyond[1])
        else:
            ends = self.end_slopes[:, :1] * beyond[0] + self.end_slopes[:, 1:] * beyond[1]
        result = self.interpolate(rows) + ends
        batch, _, height, _ = features.shape
        return rearrange(result, "c (b h w) -> b c h w", b=batch, h=height)

    def interpolate(self, rows: Tensor) -> Tensor:
        """The function between the knots, ``(C, n)`` -> ``(C, n)``; constant outside."""
        last = self.values.shape[1] - 1
        position = ((rows + 1) * (last / 2)).clamp(0, last)
        left = position.detach().floor().clamp(max=last - 1)
        index = left.nan_to_num(0).long()  # the result of a NaN is NaN, because of the position
        low, high = self.values.gather(1, index), self.values.gather(1, index + 1)
        return low + (high - low) * (position - left)

    def extra_repr(self) -> str:
        channels, count = self.values.shape
        return f"{channels} channels, {count} knots in [-1, 1]"
