"""ADMM-CSNet in its second form: the image itself is split, so any operator serves."""

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
    require_tensors,
    strip_prefix,
)
from lgmnet.operators import LinearOperator
from lgmnet.unfolding.blocks import radius
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.piecewise_linear import PiecewiseLinear, knots

# Before training.
WEIGHT, STEP, KEEP, THRESHOLD = 0.1, 1.0, 0.9, 0.05


class PenaltyStep(nn.Module):
    """Z: gradient steps z ← μ₁z + μ₂v − C₂(S(C₁z)) from z = v.

    Before training C₁ has orthonormal rows or columns, C₂ is its transpose divided by the taps of
    a filter, and S is the identity cut at ±0.05, the slope of a smoothed absolute value.

    Shapes:
        ``(batch, c, H, W)`` in and out; every channel is an image of its own.
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
    """ADMM-CSNet: ADMM for min ½‖Φx − y‖² + Σ λ_l g(D_l z) with z = x, every part of it learned.

    Each stage solves for x, takes gradient steps for z, and moves the multiplier β by η(x − z).
    Any operator serves. Of a complex image, real and imaginary part go through the same maps.

    Args:
        block_size: B, from the operator where it has blocks; only `reach` depends on it.
        stages: K; a last X step follows them.
        channels: L, filters of a stage.
        kernel_size: of the filters, odd.
        knots: of the piecewise linear functions; equally spaced in [-1, 1].
        inner_steps: gradient steps for z in a stage.
        shared: one set of weights for all stages, the last X step included.
        project: end with the closest image that Φ measures as y, as the public code does. Not for
            noisy y; nor can a network with blocks be compiled with it.

    Shapes:
        measurement as the operator has it -> image ``(batch, c, H, W)``; c is 1 or 2 channels.

    Paper:     Y. Yang, J. Sun, H. Li and Z. Xu, TPAMI 2020, arXiv:1705.06869.
    Original:  github.com/yangyan92/Pytorch_ADMM-CSNet
    Differences from the original: F is orthonormal (theirs has no factor), which changes no image.
    The weight ρ of the X step is kept positive by a softplus. What is learned of a piecewise linear
    function are its values at the knots and two slopes beyond them; in their code, all slopes and
    one value. The public code has one z step, from z = x + β, without μ₁ and μ₂ (here their sum,
    1 before training, stands for its 1), and one set of weights: ``shared``. Own weights per stage
    are the paper's. Values before training, 8 channels of 3 x 3 filters, μ₁ = 0.9 and all about
    block sensing are our choices.
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
        # ρ of every X step, by its inverse softplus.
        raw = math.log(math.expm1(WEIGHT))
        self.raw_weights = nn.Parameter(torch.full((1 if shared else stages + 1,), raw))
        self.priors = nn.ModuleList(
            PenaltyStep(channels, kernel_size, knots, inner_steps) for _ in range(count)
        )
        self.steps = nn.Parameter(torch.full((count,), STEP))
        if block_size is not None:
            # ΦᵀΦ couples a block; the inner steps look beyond it.
            self.reach = stages * math.ceil(inner_steps * radius(self.priors[0]) / block_size)
        self.stage_count = stages
        self.shared = shared
        self.project = project

    def forward(self, measurement: Tensor, operator: LinearOperator) -> Reconstruction:
        back_projection = operator.adjoint(measurement)
        split = multiplier = torch.zeros_like(back_projection)
        weights = F.softplus(self.raw_weights)
        for k in range(self.stage_count):
            own = 0 if self.shared else k
            image = operator.solve(split - multiplier, weights[own], back_projection)
            split = self.priors[own](image + multiplier)
            multiplier = multiplier + self.steps[own] * (image - split)
        image = operator.solve(split - multiplier, weights[-1], back_projection)
        return Reconstruction(operator.project(image, measurement) if self.project else image)

    def stages(self) -> Iterable[nn.Module]:
        return self.priors


# Names in the authors' files -> names here; what else they hold are copies.
PUBLISHED_NAMES = {
    "conv1_layer.conv.weight": "priors.0.analysis.weight",
    "conv1_layer.conv.bias": "priors.0.analysis.bias",
    "conv2_layer.conv.weight": "priors.0.synthesis.weight",
    "conv2_layer.conv.bias": "priors.0.synthesis.bias",
}
SLOPES, FIRST_VALUE = "nonlinear_layer.pwl.slopes", "nonlinear_layer.pwl.biases"
COPIES = re.compile(r"(re_\w+_layer|multiple_\w+_layer|cs_net\.(\d+))\.(.+)")


def from_published(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Translate the authors' weights to options of the network and its state.

    Raises:
        ValueError: the file is of another network, or its copies of the shared weights differ.
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
            raise ValueError(f"this is no ADMM-CSNet file: its tensor {key} is unknown")
        originals = [name for name in state if name.endswith(found[3]) and not COPIES.match(name)]
        if not any(torch.equal(tensor, state[name]) for name in originals):
            raise ValueError(
                f"{key} differs from the weights that all stages share; the file was trained with "
                "another code than ADMM-CSNet's"
            )
