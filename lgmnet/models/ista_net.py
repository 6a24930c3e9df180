"""ISTA-Net and ISTA-Net⁺: gradient steps, and soft thresholding in a learned transform."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
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
from lgmnet.models.watching import FIRST, show, stage_name, watch_blocks
from lgmnet.operators import LinearOperator
from lgmnet.unfolding.blocks import blocks_beyond, join_blocks, soft_threshold, split_measurement
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.data_steps import GradientStep
from lgmnet.unfolding.starts import check_domain, first_estimate


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution of these networks: 3 x 3, no bias, Xavier-normal initial values."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.xavier_normal_(layer.weight)
    return layer


def transform(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, hidden), nn.ReLU(), conv(hidden, outputs))


class TransformPrior(nn.Module):
    """F̃(soft(F(r), θ)).

    Second output: the symmetry residual F̃(F(r)) − r, with the shape of r. Only training computes
    it; otherwise it is None.
    """

    def __init__(self, channels: int, image_channels: int = 1) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.01))
        self.analysis = transform(image_channels, channels, channels)
        self.synthesis = transform(channels, channels, image_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        code = self.analysis(image)
        estimate = self.synthesis(soft_threshold(code, self.threshold))
        # The residual costs one more synthesis, so only training computes it.
        return estimate, self.synthesis(code) - image if self.training else None


class ResidualTransformPrior(nn.Module):
    """r + G(H̃(soft(H(D(r)), θ))).

    Second output: H̃(H(D(r))) − D(r) ``(batch, C, H, W)``. Only training computes it; otherwise it
    is None.

    Args:
        entry: D; the default takes one image.
    """

    def __init__(
        self, channels: int, entry: nn.Conv2d | None = None, image_channels: int = 1
    ) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.01))
        self.entry = conv(image_channels, channels) if entry is None else entry
        self.analysis = transform(channels, channels, channels)
        self.synthesis = transform(channels, channels, channels)
        self.exit = conv(channels, image_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.entry(image)
        code = self.analysis(features)
        change = self.exit(self.synthesis(soft_threshold(code, self.threshold)))
        return image + change, self.synthesis(code) - features if self.training else None


@MODELS.register("ista_net")
class ISTANet(UnfoldingNetwork):
    """ISTA-Net: each stage is a gradient step and soft thresholding in a learned transform F.

    Args:
        measurements, block_size: m and B, from the operator; None for an operator without blocks.
        stages: K.
        channels: width of the transform.
        start: how x⁰ is computed: ``regression``, fitted to training blocks; ``adjoint``, the Φᵀ
            before training; or ``back_projection``, Φᵀy. The first two need blocks.
        prior_domain: ``block`` (each block separately, as published) or ``image``.
        symmetry_weight: weight of the penalty ``symmetry``, the sum over the stages of the mean
            squared F̃(F(r)) − r. It is computed in training mode only.
        image_channels: from the operator; 2 for complex images.

    Shapes:
        measurement of the operator -> image ``(batch, image_channels, H, W)``.

    Raises:
        ValueError: the operator does not support an option, or a number is out of range.

    Paper:     J. Zhang and B. Ghanem, CVPR 2018, arXiv:1706.07929.
    Original:  github.com/jianzhangcs/ISTA-Net-PyTorch
    Differences from the original: the symmetry penalty is that of the public code, at the r of
    every stage; the paper defines it at the true image. x⁰ is a regression over blocks of our
    training images, and Φ is a new random matrix; the authors publish files for both, which
    ``phi_init`` and the importer can read. A learned Φ is our addition, and so is
    ``prior_domain="image"`` for blocks. The authors' network for MRI has
    ``prior_domain="image"``, ``start="back_projection"`` and real images; complex images are our
    addition.
    """

    def __init__(
        self,
        measurements: int | None = None,
        block_size: int | None = None,
        stages: int = 9,
        channels: int = 32,
        start: str = "regression",
        prior_domain: str = "block",
        symmetry_weight: float = 0.01,
        image_channels: int = 1,
    ) -> None:
        super().__init__()
        check_domain(prior_domain, block_size)
        require_positive(stages=stages, channels=channels)
        self.image_channels = image_channels
        self.start = first_estimate(start, measurements, block_size)
        self.data_steps = nn.ModuleList(self.make_data_step() for _ in range(stages))
        self.priors = nn.ModuleList(self.make_prior(channels) for _ in range(stages))
        self.prior_domain = prior_domain
        if prior_domain == "block":
            self.reach = 0
        elif block_size is not None:
            # A stage reads some pixels of the next block, and ΦᵀΦ couples all its pixels.
            self.reach = stages * blocks_beyond(self.priors[0], block_size)
        self.symmetry_weight = symmetry_weight

    def make_data_step(self) -> nn.Module:
        return GradientStep()

    def make_prior(self, channels: int) -> nn.Module:
        return TransformPrior(channels, self.image_channels)

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        rows, columns = measurement.shape[2:]
        if self.prior_domain == "block":
            measurement = split_measurement(measurement)
        start = operator.adjoint if self.start is None else self.start
        image = start(measurement)
        watch = watch_blocks(watch, rows, columns) if self.prior_domain == "block" else watch
        show(watch, image, FIRST)
        residuals = []
        for k, (data_step, prior) in enumerate(zip(self.data_steps, self.priors, strict=True)):
            image = data_step(image, measurement, operator)
            image, residual = prior(image)
            residuals.append(residual)
            show(watch, image, stage_name(k))
        if self.prior_domain == "block":
            image = join_blocks(image, rows, columns)
        if not self.training:
            return Reconstruction(image)
        symmetry = sum(residual.square().mean() for residual in residuals)
        return Reconstruction(image, {"symmetry": self.symmetry_weight * symmetry})

    def stages(self) -> Iterable[nn.Module]:
        return self.priors


@MODELS.register("ista_net_plus")
class ISTANetPlus(ISTANet):
    """ISTA-Net⁺: ISTA-Net with the transform applied to features, and its result added to r.

    Arguments, shapes, source and differences are those of `ISTANet`.
    """

    def make_prior(self, channels: int) -> nn.Module:
        return ResidualTransformPrior(channels, image_channels=self.image_channels)


# Names in the authors' files -> names here.
PUBLISHED_NAMES = {
    "lambda_step": "data_steps.{k}.step",
    "soft_thr": "priors.{k}.threshold",
    "conv_D": "priors.{k}.entry.weight",
    "conv1_forward": "priors.{k}.analysis.0.weight",
    "conv2_forward": "priors.{k}.analysis.2.weight",
    "conv1_backward": "priors.{k}.synthesis.0.weight",
    "conv2_backward": "priors.{k}.synthesis.2.weight",
    "conv_G": "priors.{k}.exit.weight",
}


def from_published(
    state: Mapping[str, Tensor], matrix: Tensor | None = None, start: Tensor | None = None
) -> Published:
    """Translate the authors' weights of ISTA-Net or ISTA-Net⁺.

    Args:
        matrix: Φ ``(m, 1089)``, the array ``phi`` of their ``phi_0_*_1089.mat``.
        start: Q ``(1089, m)``, the array ``Qinit`` of their ``Initialization_Matrix_*.mat``.

    Raises:
        ValueError: Φ or Q is missing or has another shape, or the file belongs to another network.
    """
    state = strip_prefix(state)
    require_tensors("ISTA-Net", state, "fcs.0.lambda_step", "fcs.0.conv1_forward")
    if matrix is None or start is None:
        raise ValueError(
            "the weights files of ISTA-Net contain neither Φ nor the regression start; give "
            "--matrix phi_0_*.mat and --init Initialization_Matrix_*.mat of the same ratio"
        )
    if start.shape != matrix.T.shape:
        raise ValueError(
            f"the start has shape {tuple(start.shape)}, but Φ {tuple(matrix.shape)} needs "
            f"{tuple(matrix.T.shape)}; give two files of the same ratio"
        )
    own = translate(state) | {"start.matrix": start}
    return Published({"stages": count_stages(state)}, matrix, own)


def from_published_mri(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Translate the authors' weights for MRI to the options and the state of the network.

    Raises:
        ValueError: the file belongs to another network.
    """
    state = strip_prefix(state)
    require_tensors("ISTA-Net", state, "fcs.0.lambda_step", "fcs.0.conv1_forward")
    stages = count_stages(state)
    options = {"stages": stages, "start": "back_projection", "prior_domain": "image"}
    return options, translate(state)


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors with our names."""
    own = {}
    for key, tensor in state.items():
        match = re.fullmatch(r"fcs\.(\d+)\.(\w+)", key)
        if match is None or match[2] not in PUBLISHED_NAMES:
            raise ValueError(f"this is not a weights file of ISTA-Net: its tensor {key} is unknown")
        scalar = match[2] in ("lambda_step", "soft_thr")
        own[PUBLISHED_NAMES[match[2]].format(k=match[1])] = tensor.reshape(()) if scalar else tensor
    return own


def count_stages(state: Mapping[str, Tensor]) -> int:
    return 1 + max(int(key.split(".")[1]) for key in state)
