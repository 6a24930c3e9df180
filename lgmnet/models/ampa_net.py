"""AMP-Net and AMPA-Net: approximate message passing with a learned Φ, a CNN and attention."""

import math
from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork, Watch
from lgmnet.models.watching import FIRST, show, stage_name, watch_blocks
from lgmnet.operators import LinearOperator
from lgmnet.registry import require_choice
from lgmnet.unfolding.blocks import join_blocks, split_measurement
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.starts import GAUSSIAN_STD, LinearStart

NORMS = ("affine", "batch", "none")
ORTHOGONALITY_NORMS = ("own", "shared")
ONSAGER_RESIDUALS = ("new", "old")
ATTENTIONS = ("code", "paper", "none")
START_ATTENTION_SUMS = ("one", "pixels")
# ε of TensorFlow's batch normalisation, and ε of the Charbonnier penalty √(e² + ε²).
NORM_EPSILON = 1e-3
CHARBONNIER_EPSILON = 1e-3
# The bottleneck of the channel attention divides the number of channels by this.
REDUCTION = 4


def conv(inputs: int, outputs: int, size: int = 3, bias: bool = False) -> nn.Conv2d:
    """Convolution that keeps height and width, Xavier-uniform; a bias starts at zero."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ChannelAffine(nn.Module):
    """γ v / √(1 + ε) + β per channel: batch normalisation with fixed mean 0 and variance 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        return features * (self.weight / math.sqrt(1 + NORM_EPSILON)) + self.bias


def normalisation(kind: str, channels: int) -> nn.Module:
    require_choice("norm", kind, NORMS)
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps=NORM_EPSILON, momentum=0.01)
    return ChannelAffine(channels) if kind == "affine" else nn.Identity()


class Transform(nn.Module):
    """conv, norm, ReLU, conv ``(batch, channels, H, W)``.

    Args:
        paths: 1, or 2 if the penalty uses its own norm.
    """

    def __init__(self, channels: int, norm: str, paths: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.norms = nn.ModuleList(normalisation(norm, channels) for _ in range(paths))
        self.second = conv(channels, channels)

    def forward(self, features: Tensor, path: int = 0) -> Tensor:
        return self.second(self.norms[path](self.first(features)).relu())


class BalancedCNN(nn.Module):
    """f(R) = R + exit(attention(Dᵀ(η(D(entry(R)))))), with η = ReLU ∘ norm.

    Shapes:
        image ``(batch, 1, H, W)`` in and out. Second output: in training mode the mean
        Charbonnier distance of Dᵀ(D(v)), without η, from v = entry(R); else None.
    """

    def __init__(self, channels: int, norm: str, orthogonality_norm: str) -> None:
        super().__init__()
        paths = 2 if orthogonality_norm == "own" else 1
        self.entry = conv(1, channels)
        self.analysis = Transform(channels, norm, paths)
        self.shrink = nn.Sequential(normalisation(norm, channels), nn.ReLU())
        self.synthesis = Transform(channels, norm, paths)
        self.attention: nn.Module = nn.Identity()
        self.exit = conv(channels, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.entry(image)
        code = self.shrink(self.analysis(features))
        change = self.exit(self.attention(self.synthesis(code)))
        # The penalty costs as much as the estimate, so only training computes it.
        return image + change, self.penalty(features) if self.training else None

    def penalty(self, features: Tensor) -> Tensor:
        rebuilt = self.synthesis(self.analysis(features, path=-1), path=-1)
        return ((rebuilt - features).square() + CHARBONNIER_EPSILON**2).sqrt().mean()


@MODELS.register("amp_net")
class AMPNet(UnfoldingNetwork):
    """AMP-Net (Li and Zhou): approximate message passing with a CNN as the shrinkage.

    x⁰ = Qy, z⁰ = y − Φx⁰; then K times x⁺ = f(x + Φᵀz), z⁺ = y − Φx⁺ + φ z. Every block is
    processed as a separate image. The defaults are the public code of AMPA-Net without attention.

    Args:
        measurements, block_size: m and B, from the operator.
        stages: K.
        channels: width of the CNN.
        start: initial Q, ``gaussian`` or another rule of `LinearStart`. Q is always trained.
        onsager_residual: z⁺ uses the ``new`` x⁺ (code) or the ``old`` x (paper).
        norm: ``affine``, learned scale and shift (the effect of the code's batch
            normalisation); ``batch`` (paper); ``none``.
        orthogonality_norm: the penalty computes D and Dᵀ with its ``own`` norms (code), which
            only training uses, or with the ``shared`` norms.
        orthogonality_weight: weight of the penalty ``orthogonality``, which is the sum over the
            stages of the mean Charbonnier distance of Dᵀ(D(v)) from v. Only training computes it.

    Shapes:
        measurement ``(batch, m, H/B, W/B)`` -> image ``(batch, 1, H, W)``.

    Paper:     N. Li and C. C. Zhou, AMPA-Net, ICCT 2020, arXiv:2010.06907. Not the
               AMP-Net of Zhang et al., TIP 2021.
    Original:  github.com/puallee/AMPA-Net (TensorFlow; no weights were released)
    Differences from the original: its biases, which are created but never added, are left out.
    The last φ has no effect, as in the original; it is kept for the parameter count. Q starts as
    in the original, N(0, 0.01²), and so does Φ with ``sampling.phi_init: small_gaussian``.
    """

    reach = 0

    def __init__(
        self,
        measurements: int,
        block_size: int,
        stages: int = 9,
        channels: int = 32,
        start: str = "gaussian",
        onsager_residual: str = "new",
        norm: str = "affine",
        orthogonality_norm: str = "own",
        orthogonality_weight: float = 0.01,
    ) -> None:
        super().__init__()
        require_choice("onsager_residual", onsager_residual, ONSAGER_RESIDUALS)
        require_choice("orthogonality_norm", orthogonality_norm, ORTHOGONALITY_NORMS)
        require_positive(stages=stages, channels=channels)
        self.start: nn.Module = LinearStart(measurements, block_size, start, learned=True)
        self.priors = nn.ModuleList(
            BalancedCNN(channels, norm, orthogonality_norm) for _ in range(stages)
        )
        self.corrections = nn.Parameter(torch.full((stages,), 0.1))
        self.onsager_residual = onsager_residual
        self.orthogonality_weight = orthogonality_weight

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        rows, columns = measurement.shape[2:]
        measurement = split_measurement(measurement)
        image = self.start(measurement)
        watch = watch_blocks(watch, rows, columns)
        show(watch, image, FIRST)
        residual = measurement - operator(image)
        penalties = []
        for k, (prior, correction) in enumerate(zip(self.priors, self.corrections, strict=True)):
            estimate, penalty = prior(image + operator.adjoint(residual))
            point = estimate if self.onsager_residual == "new" else image
            residual = measurement - operator(point) + correction * residual
            image = estimate
            show(watch, image, stage_name(k))
            penalties.append(penalty)
        image = join_blocks(image, rows, columns)
        if not self.training:
            return Reconstruction(image)
        return Reconstruction(image, {"orthogonality": self.orthogonality_weight * sum(penalties)})

    def learned_values(self) -> dict[str, list[float]]:
        return {"correction": self.corrections.tolist()}

    def stages(self) -> Iterable[nn.Module]:
        return self.priors


class AttentiveStart(nn.Module):
    """x⁰ = (Qy) ⊙ a, with a = softmax(W₃ ReLU(y)) over the pixels of a block.

    Args:
        start: y -> Qy.
        kind: ``code``, or ``paper`` for softmax(W₃ ReLU(Wy)), W of shape (m, m).
        total: sum of a: ``one``, or the number of ``pixels``.

    Shapes:
        ``(blocks, m, 1, 1)`` -> ``(blocks, 1, B, B)``.
    """

    def __init__(
        self, start: nn.Module, measurements: int, block_size: int, kind: str, total: str
    ) -> None:
        super().__init__()
        self.linear = start
        hidden = [linear(measurements, measurements)] if kind == "paper" else []
        self.weigh = nn.Sequential(*hidden, nn.ReLU(), linear(measurements, block_size**2))
        self.block_size = block_size
        self.total = block_size**2 if total == "pixels" else 1

    def forward(self, measurement: Tensor) -> Tensor:
        weights = self.weigh(measurement.flatten(1)).softmax(dim=1) * self.total
        weights = rearrange(weights, "n (h w) -> n 1 h w", h=self.block_size)
        return self.linear(measurement) * weights


def linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=GAUSSIAN_STD)
    return layer


class SpatialAttention(nn.Module):
    """v ⊙ sigmoid(conv([mean, max over channels])): one weight per pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = conv(2, 1, bias=True)

    def forward(self, features: Tensor) -> Tensor:
        mean, largest = features.mean(1, keepdim=True), features.amax(1, keepdim=True)
        return features * self.weigh(torch.cat([mean, largest], dim=1)).sigmoid()


class ChannelAttention(nn.Module):
    """v ⊙ sigmoid(g(mean over pixels) + g(max over pixels)): one weight per channel.

    g is conv, norm, ReLU, conv through a bottleneck, on vectors ``(batch, channels, 1, 1)``.

    Args:
        kind: ``code``: 1 x 1 convolutions, and a norm for each of the two branches; ``paper``:
            3 x 3 convolutions (on one pixel only their centre has an effect), one norm.
    """

    def __init__(self, channels: int, norm: str, kind: str) -> None:
        super().__init__()
        if channels < REDUCTION:
            raise ValueError(f"channels is {channels}, channel attention needs {REDUCTION} or more")
        narrow, size = channels // REDUCTION, 1 if kind == "code" else 3
        self.squeeze = conv(channels, narrow, size)
        branches = 2 if kind == "code" else 1
        self.norms = nn.ModuleList(normalisation(norm, narrow) for _ in range(branches))
        self.expand = conv(narrow, channels, size)

    def forward(self, features: Tensor) -> Tensor:
        mean = features.mean((2, 3), keepdim=True)
        largest = features.amax((2, 3), keepdim=True)
        logits = self.branch(mean, self.norms[0]) + self.branch(largest, self.norms[-1])
        return features * logits.sigmoid()

    def branch(self, pooled: Tensor, norm: nn.Module) -> Tensor:
        return self.expand(norm(self.squeeze(pooled)).relu())


@MODELS.register("ampa_net")
class AMPANet(AMPNet):
    """AMPA-Net: AMP-Net with attention on x⁰, on pixels and on channels.

    Args, besides those of `AMPNet`:
        start_attention: weights on the pixels of x⁰: ``code``, softmax(W₃ ReLU(y)); ``paper``,
            one more layer before the ReLU; or ``none``.
        start_attention_sum: the sum of these weights: ``one`` (published; x⁰ is then about
            B² times smaller than Qy before training) or the number of ``pixels``.
        spatial_attention: whether the pixels of the features get weights before `exit`.
        channel_attention: weights on channels, after those on pixels: ``code``, 1 x 1
            convolutions and two norms; ``paper``, 3 x 3 and one norm; or ``none``.

    Shapes, source and differences are those of `AMPNet`. The paper does not give the width of
    the first layer of ``start_attention: paper``; ours is m.
    """

    def __init__(
        self,
        measurements: int,
        block_size: int,
        stages: int = 9,
        channels: int = 32,
        start: str = "gaussian",
        onsager_residual: str = "new",
        norm: str = "affine",
        orthogonality_norm: str = "own",
        orthogonality_weight: float = 0.01,
        start_attention: str = "code",
        start_attention_sum: str = "one",
        spatial_attention: bool = True,
        channel_attention: str = "code",
    ) -> None:
        super().__init__(
            measurements, block_size, stages, channels, start,
            onsager_residual, norm, orthogonality_norm, orthogonality_weight,
        )  # fmt: skip
        require_choice("start_attention", start_attention, ATTENTIONS)
        require_choice("start_attention_sum", start_attention_sum, START_ATTENTION_SUMS)
        require_choice("channel_attention", channel_attention, ATTENTIONS)
        if start_attention != "none":
            self.start = AttentiveStart(
                self.start, measurements, block_size, start_attention, start_attention_sum
            )
        for prior in self.priors:
            parts: list[nn.Module] = [SpatialAttention()] if spatial_attention else []
            if channel_attention != "none":
                parts.append(ChannelAttention(channels, norm, channel_attention))
            prior.attention = nn.Sequential(*parts)
