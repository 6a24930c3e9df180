"""ADMM-CSNet in its second form, for any operator: the split variable is the image itself."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lgmnet.models.base import (
    MODELS,
    Reconstruction,
    UnfoldingNetwork,
    Watch,
    require_tensors,
    strip_prefix,
)
from lgmnet.models.watching import show, stage_name
from lgmnet.operators import LinearOperator
from lgmnet.unfolding.blocks import radius
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.piecewise_linear import PiecewiseLinear, knots

# Initial values of ρ, η, μ₁ and the limit of S.
WEIGHT, STEP, KEEP, THRESHOLD = 0.1, 1.0, 0.9, 0.05


class PenaltyStep(nn.Module):
    """Z: gradient steps z ← μ₁z + μ₂v − C₂(S(C₁z)), which start at z = v.

    Before training, C₁ has orthonormal rows or columns. C₂ is its transpose divided by the number
    of entries of a filter. S is the identity clipped to ±0.05, the derivative of a smoothed
    absolute value.

    Shapes:
        ``(batch, c, H, W)`` in and out; every channel is a separate image.
    """

    def __init__(self, channels: int, kernel_size: int, knot_count: int, inner_steps: int) -> None:
        super().__init__()
        half = kernel_size // 2
        self.analysis = nn.Conv2d(1, channels, kernel_size, padding=half)
        slope = knots(knot_count).clamp(-THRESHOLD, THRESHOLD)
        self.shrinkage = PiecewiseLinear(channels, slope, end_slope=0.0, learned_ends=True)
        self.synthesis = nn.Conv2d(channels, 1, kernel_size, padding=half)
        self.mix = nn.Parameter(torch.tensor([KEEP, 1 - KEEP]))
        self.inner_steps = inner_steps
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        for layer in (self.analysis, self.synthesis):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        weight = nn.init.orthogonal_(self.analysis.weight)
        turned = weight.flip(2, 3).transpose(0, 1)
        self.synthesis.weight.copy_(turned / weight[0].numel())

    def forward(self, image: Tensor) -> Tensor:
        given = rearrange(image, "b c h w -> (b c) 1 h w")
        split = given
        for _ in range(self.inner_steps):
            slope = self.synthesis(self.shrinkage(self.analysis(split)))
            split = self.mix[0] * split + self.mix[1] * given - slope
        return rearrange(split, "(b c) 1 h w -> b c h w", b=len(image))


@MODELS.register("admm_csnet")
class ADMMCSNet(UnfoldingNetwork):
    """ADMM-CSNet: ADMM for min ½‖Φx − y‖² + Σ λ_l g(D_l z) with z = x and all parts learned.

    Each stage solves for x, makes gradient steps for z, and adds η(x − z) to the multiplier β. Any
    operator is supported. The real and the imaginary part of a complex image use the same weights.

    Args:
        block_size: B, from the operator; None for an operator without blocks. Only `reach` depends
            on it.
        stages: K. A final X step follows the stages.
        channels: L, filters per stage.
        kernel_size: side of the filters, an odd number.
        knots: number of knots of the piecewise linear functions, equally spaced in [-1, 1].
        inner_steps: gradient steps for z per stage.
        shared: all stages and the final X step share one set of weights.
        project: project the result onto Φx = y, as the public code does. Do not use it for noisy y.
            A network with blocks cannot be compiled with it.

    Shapes:
        measurement of the operator -> image ``(batch, c, H, W)``; c is 1 or 2 channels.

    Paper:     Y. Yang, J. Sun, H. Li and Z. Xu, TPAMI 2020, arXiv:1705.06869.
    Original:  github.com/yangyan92/Pytorch_ADMM-CSNet
    Differences from the original: F is orthonormal (theirs has no factor); the images are the same.
    A softplus keeps the weight ρ of the X step positive. A piecewise linear function learns its
    values at the knots and its two outer slopes; in their code it learns all slopes and one value.
    The public code has one z step, from z = x + β, without μ₁ and μ₂ (here their sum replaces its
    1, and is 1 before training). It has one set of weights, as with ``shared``. The paper has
    separate weights per stage. The initial values, 8 channels of 3 x 3 filters, μ₁ = 0.9 and block
    sensing are our choices.
    """

    any_channels = True

    def __init__(
        self,
        block_size: int | None = None,
        stages: int = 10,
        channels: int = 8,
        kernel_size: int = 3,
        knots: int = 101,
        inner_steps: int = 1,
        shared: bool = False,
        project: bool = False,
    ) -> None:
        super().__init__()
        require_positive(stages=stages, channels=channels, inner_steps=inner_steps)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}, expected an odd number, such as 3")
        count = 1 if shared else stages
        # ρ of every X step, stored as its inverse softplus.
        raw = math.log(math.expm1(WEIGHT))
        self.raw_weights = nn.Parameter(torch.full((1 if shared else stages + 1,), raw))
        self.priors = nn.ModuleList(
            PenaltyStep(channels, kernel_size, knots, inner_steps) for _ in range(count)
        )
        self.steps = nn.Parameter(torch.full((count,), STEP))
        if block_size is not None:
            # ΦᵀΦ couples the pixels of a block; the inner steps read pixels of other blocks.
            self.reach = stages * math.ceil(inner_steps * radius(self.priors[0]) / block_size)
        self.stage_count = stages
        self.shared = shared
        self.project = project

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        back_projection = operator.adjoint(measurement)
        split = multiplier = torch.zeros_like(back_projection)
        weights = F.softplus(self.raw_weights)
        for k in range(self.stage_count):
            own = 0 if self.shared else k
            image = operator.solve(split - multiplier, weights[own], back_projection)
            show(watch, image, stage_name(k))
            split = self.priors[own](image + multiplier)
            multiplier = multiplier + self.steps[own] * (image - split)
        image = operator.solve(split - multiplier, weights[-1], back_projection)
        image = operator.project(image, measurement) if self.project else image
        show(watch, image, "last step")
        return Reconstruction(image)

    def learned_values(self) -> dict[str, list[float]]:
        """Of a network whose stages share them, one value each."""
        return {"weight": F.softplus(self.raw_weights).tolist(), "step": self.steps.tolist()}

    def stages(self) -> Iterable[nn.Module]:
        return self.priors


# Names in the authors' files -> names here. All other tensors of the files are copies.
PUBLISHED_NAMES = {
    "conv1_layer.conv.weight": "priors.0.analysis.weight",
    "conv1_layer.conv.bias": "priors.0.analysis.bias",
    "conv2_layer.conv.weight": "priors.0.synthesis.weight",
    "conv2_layer.conv.bias": "priors.0.synthesis.bias",
}
SLOPES, FIRST_VALUE = "nonlinear_layer.pwl.slopes", "nonlinear_layer.pwl.biases"
COPIES = re.compile(r"(re_\w+_layer|multiple_\w+_layer|cs_net\.(\d+))\.(.+)")


def from_published(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Translate the authors' weights to the options and the state of the network.

    Raises:
        ValueError: the file belongs to another network, or its copies of the shared weights differ.
    """
    state = strip_prefix(state)
    require_tensors("ADMM-CSNet", state, "rho", "gamma", SLOPES, FIRST_VALUE, *PUBLISHED_NAMES)
    check_copies(state)
    own = {ours: state[theirs] for theirs, ours in PUBLISHED_NAMES.items()}
    slopes, count = state[SLOPES], state[SLOPES].shape[1] - 1
    rise = slopes[:, 1:-1].double().cumsum(1) * (2 / (count - 1))
    first = state[FIRST_VALUE].double()[:, None]
    own["priors.0.shrinkage.values"] = torch.cat([first, first + rise], 1).to(slopes.dtype)
    own["priors.0.shrinkage.end_slopes"] = slopes[:, [0, -1]]
    own["priors.0.mix"] = torch.tensor([KEEP, 1 - KEEP])
    own["raw_weights"] = state["rho"].double().expm1().log().reshape(1).to(slopes.dtype)
    own["steps"] = state["gamma"].reshape(1)
    channels, _, kernel_size, _ = own["priors.0.analysis.weight"].shape
    options = {
        "stages": sum(re.fullmatch(r"cs_net\.\d+\.gamma", key) is not None for key in state),
        "channels": channels,
        "kernel_size": kernel_size,
        "knots": count,
        "shared": True,
        "project": True,
    }
    return options, own


def check_copies(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless all stages of an authors' file have the same weights."""
    for key, tensor in state.items():
        if key in ("rho", "gamma", SLOPES, FIRST_VALUE, *PUBLISHED_NAMES):
            continue
        found = COPIES.fullmatch(key)
        if found is None:
            raise ValueError(
                f"this is not a weights file of ADMM-CSNet: its tensor {key} is unknown"
            )
        originals = [name for name in state if name.endswith(found[3]) and not COPIES.match(name)]
        if not any(torch.equal(tensor, state[name]) for name in originals):
            raise ValueError(
                f"{key} differs from the weights that all stages share, so the file is not from "
                "the public code of ADMM-CSNet; use a file of that code"
            )
