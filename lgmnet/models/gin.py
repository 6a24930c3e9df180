"""GIN-style networks: the gradient is an input of the prior instead of a gradient step.

Only the abstract of the paper was available. It says: after a gradient step, the network may lose
the consistency with y; with the gradient as an input, it can keep it. How this
is done, and in which networks, is **our interpretation**: call results "GIN-style", not "GIN".

Let x be the input of a stage, g = Φᵀ(Φx − y), r = x − sg, and s the step size of the host network
(learned, with the initial value of the host). ``step`` selects the result of a stage with prior N:

========  ================  =====================================================================
``gdm``   r + N(r)          the host network itself, the baseline
``cat``   x + N([x, sg])    the main form: no gradient step, one more input channel
``sub``   r + N([x, sg])    the gradient step, and the gradient as an input
``feat``  x + N([x, sg])    a convolution also adds sg to every later convolutional block
``gdm2``  r + N([r, x])     the control: two channels, but no gradient
========  ================  =====================================================================

In AMP-Net N is the noise estimator. There ``gdm`` and ``gdm2`` keep the gradient step of the host,
at x + N(x) and at x + N([r, x]).

Paper:     gradient-informed network (GIN), Pattern Recognition Letters 192, 2025 (abstract only).
Original:  no public code was found.
Differences from the original: unknown, see above.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lgmnet.models import amp_net_tip, fista_net, ista_net
from lgmnet.models.amp_net_tip import AMPNetTIP
from lgmnet.models.base import MODELS
from lgmnet.models.fista_net import FISTANet
from lgmnet.models.ista_net import ISTANetPlus
from lgmnet.operators import LinearOperator
from lgmnet.registry import require_choice
from lgmnet.unfolding.blocks import conv3x3, join_blocks, soft_threshold, split_blocks
from lgmnet.unfolding.data_steps import GradientStep

# Step -> number of input channels of the prior.
INPUTS = {"gdm": 1, "cat": 2, "sub": 2, "feat": 2, "gdm2": 2}
# Steps whose prior gets [x, sg].
INFORMED = ("cat", "sub", "feat")


def inputs_of(step: str) -> int:
    require_choice("step", step, INPUTS)
    return INPUTS[step]


def prior_input(step: str, image: Tensor, change: Tensor) -> Tensor:
    """The input of a prior, made from x and sg, both ``(batch, 1, H, W)``.

    The prior adds its output to the first channel. Its network gets the last `inputs_of` channels.
    """
    if step == "gdm":
        return image - change
    if step == "gdm2":
        return torch.cat([image - change, image], dim=1)
    if step == "sub":
        return torch.cat([image - change, image, change], dim=1)
    return torch.cat([image, change], dim=1)


def make_entry(
    step: str, tied: bool, channels: int, conv: Callable[[int, int], nn.Conv2d]
) -> nn.Conv2d:
    """The first convolution of a prior; ``conv`` makes the convolutions of the host.

    If ``tied``, its output for [x, sg] equals that of the host for r = x − sg.
    """
    if not tied or step not in INFORMED:
        return conv(inputs_of(step), channels)
    entry = conv(1, channels)
    entry.weight = nn.Parameter(torch.cat([entry.weight, -entry.weight], dim=1).detach())
    entry.in_channels = inputs_of(step)
    return entry


def injections(step: str, channels: int, *layers: int) -> nn.ModuleDict:
    """For ``feat``, one convolution of sg for each given layer; zero before training."""
    found = nn.ModuleDict()
    for layer in layers if step == "feat" else ():
        conv = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        nn.init.zeros_(conv.weight)
        found[str(layer)] = conv
    return found


def run_informed(
    layers: nn.Sequential, injected: nn.ModuleDict, features: Tensor, change: Tensor
) -> Tensor:
    """Run the layers in order; add the injected convolution of ``change`` after its layer."""
    for name, layer in layers.named_children():
        features = layer(features)
        if name in injected:
            features = features + injected[name](change)
    return features


class InformedGradientStep(GradientStep):
    """`prior_input` with a learned step size s."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, image: Tensor, measurement: Tensor, operator: LinearOperator) -> Tensor:
        change = self.step * operator.adjoint(operator(image) - measurement)
        return prior_input(self.kind, image, change)


class InformedISTAPrior(ista_net.ResidualTransformPrior):
    """The prior of ISTA-Net⁺ on `prior_input`."""

    def __init__(self, channels: int, step: str, tied: bool) -> None:
        super().__init__(channels, make_entry(step, tied, channels, ista_net.conv))
        self.analysis_injections = injections(step, channels, 0)
        self.synthesis_injections = injections(step, channels, 0)

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor | None]:
        estimate, residual, _ = apply_prior(self, given, self.threshold)
        return estimate, residual


class InformedFISTAPrior(fista_net.TransformPrior):
    """The prior of FISTA-Net on `prior_input`."""

    def __init__(self, channels: int, step: str, tied: bool) -> None:
        super().__init__(channels, make_entry(step, tied, channels, fista_net.conv))
        self.analysis_injections = injections(step, channels, 0)
        self.synthesis_injections = injections(step, channels, 0)

    def forward(self, given: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return apply_prior(self, given, threshold)


def apply_prior(
    prior: InformedISTAPrior | InformedFISTAPrior, given: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Estimate, symmetry residual (training mode) and thresholded code, as in the two hosts."""
    change = given[:, -1:]

    def synthesis(code: Tensor) -> Tensor:
        return run_informed(prior.synthesis, prior.synthesis_injections, code, change)

    features = prior.entry(given[:, -prior.entry.in_channels :])
    code = run_informed(prior.analysis, prior.analysis_injections, features, change)
    sparse = soft_threshold(code, threshold)
    estimate = given[:, :1] + prior.exit(synthesis(sparse))
    return estimate, synthesis(code) - features if prior.training else None, sparse


class InformedStage(amp_net_tip.Stage):
    """A stage of AMP-Net whose noise estimator gets `prior_input`, block by block."""

    def __init__(
        self,
        channels: int,
        block_size: int,
        learned_step: bool,
        deblock: bool,
        kind: str,
        tied: bool,
    ) -> None:
        entry = make_entry(kind, tied, channels, conv3x3)
        super().__init__(channels, block_size, learned_step, deblock, entry)
        self.kind = kind
        self.injections = injections(kind, channels, 2, 4)

    def forward(self, image: Tensor, measurement: Tensor, operator: LinearOperator) -> Tensor:
        if self.kind == "gdm":
            return super().forward(image, measurement, operator)
        change = self.data_step.step * operator.adjoint(operator(image) - measurement)
        given = prior_input(self.kind, image, change)
        noise = self.noise(given[:, -2:])
        if self.kind == "gdm2":
            image = self.data_step(image + noise, measurement, operator)
        else:
            image = given[:, :1] + noise
        return image if self.deblocker is None else image - self.deblocker(image)

    def noise(self, image: Tensor) -> Tensor:
        b = self.block_size
        blocks = split_blocks(image, b)
        noise = run_informed(self.denoiser, self.injections, blocks, blocks[:, -1:])
        return join_blocks(noise, image.shape[2] // b, image.shape[3] // b)


@MODELS.register("gin_ista_net_plus")
class GINISTANetPlus(ISTANetPlus):
    """GIN-style ISTA-Net⁺, with the penalty of the host.

    Args:
        step: ``cat``, ``sub``, ``feat``, ``gdm`` or ``gdm2``; see the docstring of this module.
        tied: with ``cat``, ``sub`` and ``feat``, start the kernels of sg as minus those of x. Then
            the first layer computes the features of r. The other steps do not use sg.

    The other arguments and the shapes are those of `ISTANet`. The docstring of this module gives
    source and differences.
    """

    def __init__(
        self,
        measurements: int | None = None,
        block_size: int | None = None,
        step: str = "cat",
        tied: bool = True,
        stages: int = 9,
        channels: int = 32,
        start: str = "regression",
        prior_domain: str = "block",
        symmetry_weight: float = 0.01,
    ) -> None:
        self.step, self.tied = step, tied  # make_data_step and make_prior need them
        super().__init__(
            measurements, block_size, stages, channels, start, prior_domain, symmetry_weight
        )

    def make_data_step(self) -> nn.Module:
        return InformedGradientStep(self.step)

    def make_prior(self, channels: int) -> nn.Module:
        return InformedISTAPrior(channels, self.step, self.tied)


@MODELS.register("gin_fista_net")
class GINFISTANet(FISTANet):
    """GIN-style FISTA-Net: x is the momentum point v, g is W̃ᵀ(Φv − y), and s is μ.

    ``step`` and ``tied`` are as in `GINISTANetPlus`, the other arguments and the shapes as in
    `FISTANet`. The docstring of this module gives source and differences.
    """

    def __init__(
        self,
        measurements: int | None = None,
        block_size: int | None = None,
        step: str = "cat",
        tied: bool = True,
        stages: int = 7,
        channels: int = 32,
        start: str = "regression",
        w_tilde: str = "phi",
        nonneg: bool = True,
        prior_domain: str = "block",
        symmetry_weight: float = 0.01,
        sparsity_weight: float = 0.001,
    ) -> None:
        self.step, self.tied = step, tied  # make_prior needs them
        super().__init__(
            measurements, block_size, stages, channels, start, w_tilde, nonneg, prior_domain,
            symmetry_weight, sparsity_weight,
        )  # fmt: skip

    def make_prior(self, channels: int) -> nn.Module:
        return InformedFISTAPrior(channels, self.step, self.tied)

    def data_step(self, point: Tensor, change: Tensor) -> Tensor:
        return prior_input(self.step, point, change)


@MODELS.register("gin_amp_net_tip")
class GINAMPNetTIP(AMPNetTIP):
    """GIN-style AMP-Net (TIP 2021): x⁺ = x + N([x, sg]), then the deblocker.

    ``step`` and ``tied`` are as in `GINISTANetPlus`, the other arguments and the shapes as in
    `AMPNetTIP`. The docstring of this module gives source and differences.
    """

    def __init__(
        self,
        measurements: int,
        block_size: int,
        step: str = "cat",
        tied: bool = True,
        variant: str = "bm",
        stages: int = 9,
        channels: int = 32,
    ) -> None:
        self.step, self.tied = step, tied  # make_stage needs them
        super().__init__(measurements, block_size, variant, stages, channels)

    def make_stage(
        self, channels: int, block_size: int, learned_step: bool, deblock: bool
    ) -> InformedStage:
        return InformedStage(channels, block_size, learned_step, deblock, self.step, self.tied)
