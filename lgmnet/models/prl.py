"""PRL-PGD: proximal gradient descent on features, in a U-Net; LGM-Net builds on it."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from lgmnet.models.base import (
    MODELS,
    Published,
    Reconstruction,
    UnfoldingNetwork,
    Watch,
    require_tensors,
    strip_prefix,
)
from lgmnet.models.watching import FIRST, ignore, show
from lgmnet.operators import LinearOperator
from lgmnet.unfolding.blocks import bottleneck, conv3x3
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.data_steps import SigmoidRange
from lgmnet.unfolding.layout import in_format_of


class Stage(nn.Module):
    """v = x − σ(conv[x, ΦᵀΦx, Φᵀy]), then v + NSM(v); see `SigmoidRange` for the shapes."""

    def __init__(self, channels: int, prior_channels: int, scale: int) -> None:
        super().__init__()
        self.data_step = SigmoidRange(channels, scale)
        self.prior = bottleneck(channels, prior_channels)

    def forward(
        self, features: Tensor, operator: LinearOperator, back_projection: Tensor
    ) -> Tensor:
        features = self.data_step(features, operator, back_projection)
        return features + self.prior(features)


class Chain(nn.Module):
    """``count`` stages at one scale.

    Shapes:
        features: ``(batch, dimf·scale², H/scale, W/scale)`` in and out.
        back_projection: Φᵀy at full resolution, ``(batch, 1, H, W)``.
    """

    def __init__(self, count: int, dim: int, dimf: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.iterations = nn.ModuleList(
            Stage(dimf * scale**2, dim * scale**2, scale) for _ in range(count)
        )

    def forward(
        self,
        features: Tensor,
        operator: LinearOperator,
        back_projection: Tensor,
        see: Callable[[Tensor], None] = ignore,
    ) -> Tensor:
        # Features may be in bf16; Φᵀy never is.
        target = in_format_of(features, F.pixel_unshuffle(back_projection, self.scale))
        for stage in self.iterations:
            features = stage(features, operator, target)
            see(features)
        return features


@MODELS.register("prl")
class PRL(UnfoldingNetwork):
    """PRL-PGD: one feature variable, a learned range term and a prior, at three scales.

    Args:
        D: stages at each scale of the encoder and of the decoder; the coarsest scale has 2D.
        dim, dimf: width of the prior and of the features, at full resolution.

    Shapes:
        measurement ``(batch, m, H/B, W/B)`` -> image ``(batch, 1, H, W)``; H and W are
        multiples of 4.

    Paper:     B. Chen, J. Song, J. Xie and J. Zhang, "Deep physics-guided unrolling
               generalization for compressed sensing", IJCV 131, 2023, arXiv:2307.08950.
    Original:  github.com/Guaishou74851/PRL
    Differences from the original: the operator is an argument, not a module global.
    """

    def __init__(self, D: int = 5, dim: int = 8, dimf: int = 8) -> None:
        super().__init__()
        require_positive(D=D, dim=dim, dimf=dimf)
        self.multiple = 4
        self.lift = conv3x3(1, dimf)
        self.down = nn.ModuleList(Chain(D, dim, dimf, scale) for scale in (1, 2))
        self.shrink = nn.ModuleList(nn.Conv2d(c, 4 * c, 2, stride=2) for c in (dimf, 4 * dimf))
        self.mid = Chain(2 * D, dim, dimf, 4)
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(4 * c, c, 2, stride=2) for c in (4 * dimf, dimf)
        )
        self.up = nn.ModuleList(Chain(D, dim, dimf, scale) for scale in (2, 1))
        self.project = conv3x3(dimf, 1)

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        start = operator.adjoint(measurement)
        first = self.lift(start)
        show(watch, start, FIRST)

        def seen(scale: int, *added: Tensor) -> Callable[[Tensor], None]:
            return ignore if watch is None else partial(self.see, watch, scale, (first, *added))

        half = self.shrink[0](self.down[0](first, operator, start, seen(1)))
        quarter = self.shrink[1](self.down[1](half, operator, start, seen(2)))
        quarter = self.mid(quarter, operator, start, seen(4, half))
        features = half + self.up[0](self.grow[0](quarter), operator, start, seen(2, half))
        features = first + self.up[1](self.grow[1](features), operator, start, seen(1))
        return Reconstruction(self.project(features))

    def see(self, watch: Watch, scale: int, added: tuple[Tensor, ...], features: Tensor) -> None:
        """Show the image of features at a scale, as if no further stage followed."""
        first, *half = added
        if scale == 4:
            features = self.grow[0](features)
        if half:
            features = half[0] + features
        if scale > 1:
            features = self.grow[1](features)
        watch(self.project(first + features), f"stage at scale 1/{scale}")

    def stages(self) -> Iterable[Stage]:
        for chain in (*self.down, self.mid, *self.up):
            yield from chain.iterations


def from_published(
    state: Mapping[str, Tensor], matrix: Tensor | None = None, start: Tensor | None = None
) -> Published:
    """Translate the authors' weights. D, dim and dimf are read from the tensors.

    Args:
        matrix, start: must be None; the file contains Φ, and the network has no start matrix.

    Raises:
        ValueError: the file is not from PRL-PGD, or a matrix or start was given.
    """
    if matrix is not None or start is not None:
        raise ValueError("PRL's files contain Φ and need no start; give neither of them")
    state = strip_prefix(state)
    probe = "body.mid.body.0.body.0.weight"
    require_tensors("PRL-PGD", state, "Phi_weight", probe)
    iterations = {m[1] for key in state if (m := re.match(r"body\.mid\.body\.(\d+)\.", key))}
    D = len(iterations) // 2
    options = {"D": D, "dim": state[probe].shape[0] // 16, "dimf": state[probe].shape[1] // 16}
    own = {_rename(key, D): value for key, value in state.items() if key != "Phi_weight"}
    return Published(options, state["Phi_weight"].flatten(1), own)


def _rename(key: str, D: int) -> str:
    """Our name of a tensor. The authors put the map between two scales into the list of stages."""
    match = re.fullmatch(r"body\.(down|mid|up)(\d?)\.body\.(\d+)\.(.+)", key)
    if match is None:
        return key.replace("body.conv_first", "lift").replace("body.conv_last", "project")
    side, level, k, rest = match[1], match[2], int(match[3]), match[4]
    if side == "down" and k == D:
        return f"shrink.{int(level) - 1}.{rest}"
    if side == "up" and k == 0:
        return f"grow.{2 - int(level)}.{rest}"
    rest = re.sub(r"^body\.", "prior.", re.sub(r"^G\.0\.", "data_step.fuse.", rest))
    if side == "mid":
        return f"mid.iterations.{k}.{rest}"
    if side == "down":
        return f"down.{int(level) - 1}.iterations.{k}.{rest}"
    return f"up.{2 - int(level)}.iterations.{k - 1}.{rest}"
