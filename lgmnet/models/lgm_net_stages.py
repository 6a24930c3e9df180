"""The stage of LGM-Net, and chains of stages at one scale."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lgmnet.models.lgm_net_options import DATA_STEPS, Z_REFINEMENTS, choose
from lgmnet.models.steps import Runner
from lgmnet.models.watching import ignore
from lgmnet.operators import LinearOperator
from lgmnet.unfolding.blocks import ResidualBlock, bottleneck, radius
from lgmnet.unfolding.layout import in_format_of


class FDIM(nn.Module):
    """One stage on the pair (X, Z) at one scale: data step (AEGR), then prior (NSM).

    Shapes:
        x, z:  ``(batch, channels, H/scale, W/scale)``.
        back_projection:  Φᵀy, pixel-unshuffled: ``(batch, scale², H/scale, W/scale)``.

    Args:
        with_prior: without it Z is X. For a stage whose Z is not used later.
    """

    def __init__(
        self,
        channels: int,
        prior_channels: int,
        scale: int,
        *,
        data_step: str,
        aegr_inputs: tuple[str, ...],
        aegr_refine: bool,
        aegr_skip: bool,
        z_refine: str,
        single: bool,
        with_prior: bool = True,
    ) -> None:
        super().__init__()
        reads_z = data_step != "aegr" or "z" in aegr_inputs
        refinement = choose("z_refine", z_refine, Z_REFINEMENTS)
        self.refine_z = refinement(channels) if reads_z else nn.Identity()
        step = choose("data_step", data_step, DATA_STEPS)
        options = {"inputs": aegr_inputs} if data_step == "aegr" else {}
        self.data_step = step(channels, scale, **options)
        blocks = (ResidualBlock(channels), ResidualBlock(channels)) if aegr_refine else ()
        self.refine_x = nn.Sequential(*blocks) if blocks else None
        self.aegr_skip = aegr_skip
        self.single = single
        self.prior = bottleneck(channels, prior_channels) if with_prior else None
        self.scale = scale
        self.radius = radius(self)

    def forward(
        self, x: Tensor, z: Tensor, operator: LinearOperator, back_projection: Tensor
    ) -> tuple[Tensor, Tensor]:
        step = self.data_step(x, self.refine_z(z), operator, back_projection)
        if self.refine_x is not None:
            step = step + self.refine_x(step)
        if self.aegr_skip:
            step = step + x
        z = step if self.prior is None else step + self.prior(step)
        return (z, z) if self.single else (step, z)

    def reach(self, block_size: int) -> int:
        """Radius of the receptive field, in pixels of this scale."""
        coupled = 0 if self.data_step.gram_first else math.ceil(block_size / self.scale)
        return self.radius + coupled


class Chain(nn.Module):
    """``count`` FDIM stages at one scale. If ``iterations`` holds fewer, they repeat in order."""

    def __init__(self, iterations: Iterable[FDIM], count: int) -> None:
        super().__init__()
        self.iterations = nn.ModuleList(iterations)
        self.count = count

    def forward(
        self,
        x: Any,
        z: Any,
        operator: LinearOperator,
        back_projection: Any,
        run: Runner,
        see: Callable[[Any, Any], None] = ignore,
    ) -> tuple[Any, Any]:
        for k in range(self.count):
            stage = self.iterations[k % len(self.iterations)]
            assert isinstance(stage, FDIM)
            step = partial(run_stage, stage, operator)
            x, z = run(step, stage.reach(operator.multiple), x, z, back_projection)
            see(x, z)
        return x, z


def run_stage(
    stage: FDIM, operator: LinearOperator, x: Tensor, z: Tensor, back_projection: Tensor
) -> tuple[Tensor, Tensor]:
    return stage(x, z, operator, back_projection)


def at_scale(scale: int, back_projection: Tensor, features: Tensor) -> Tensor:
    """Φᵀy at a scale, in the number format and memory format of the features."""
    return in_format_of(features, F.pixel_unshuffle(back_projection, scale))
