"""The parts of LGM-Net that an ablation exchanges. The first in each table is as published.

Data steps take ``(x, z, operator, back_projection)`` as described in `lgm_net.FDIM` and
return the new X. ``gram_first`` is true if ΦᵀΦ is applied to X itself. If a convolution comes
before ΦᵀΦ, the receptive field grows by a block. Fusions between scales take the sum of X and Z.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgmnet.operators import LinearOperator
from lgmnet.registry import require_choice
from lgmnet.unfolding.blocks import ResidualBlock, conv1x1, conv3x3
from lgmnet.unfolding.data_steps import SigmoidRange
from lgmnet.unfolding.layout import convolve_together, in_format_of

AEGR_INPUTS = ("x", "gram", "z", "phity")
AVF_BRANCHES = ("pool", "2", "4", "8")


def choose(option: str, value: Any, known: Mapping[Any, Any]) -> Any:
    """``known[value]``, or an error that lists the known values."""
    require_choice(option, value, known)
    return known[value]


def check_subset(option: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not values or not set(values) <= set(known) or len(set(values)) < len(values):
        raise ValueError(
            f"{option} is {list(values)}, expected at least one of {', '.join(known)}, each once"
        )


class AEGR(nn.Module):
    """Adaptive endogenous gradient reconstruction: convolutions of [X, ΦᵀΦX, Z, Φᵀy]."""

    gram_first = True

    def __init__(self, channels: int, scale: int, inputs: tuple[str, ...] = AEGR_INPUTS) -> None:
        super().__init__()
        check_subset("aegr_inputs", inputs, AEGR_INPUTS)
        self.inputs = inputs
        self.scale = scale
        used = (name for name in AEGR_INPUTS if name in inputs)
        self.reads = tuple(scale**2 if name == "phity" else channels for name in used)
        # No activation between the two: together they are one linear map.
        self.fuse = nn.Sequential(conv3x3(sum(self.reads), channels), conv1x1(channels, channels))

    def forward(
        self, x: Tensor, z: Tensor, operator: LinearOperator, back_projection: Tensor
    ) -> Tensor:
        parts = {"x": x, "z": z, "phity": back_projection}
        if "gram" in self.inputs:
            parts["gram"] = operator.gram(x, self.scale)
        first, *rest = self.fuse
        assert isinstance(first, nn.Conv2d)
        features = convolve_together(first, [parts[n] for n in AEGR_INPUTS if n in self.inputs])
        for layer in rest:  # merged with the first for inference
            features = layer(features)
        return features


class FeatureGradient(nn.Module):
    """``X − ρ(ΦᵀΦX − Φᵀy) − μ(X − Z)``, each channel treated as an image."""

    gram_first = True

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.images = channels // scale**2
        self.scale = scale
        self.rho = nn.Parameter(torch.tensor(0.5))
        self.mu = nn.Parameter(torch.tensor(0.5))

    def forward(
        self, x: Tensor, z: Tensor, operator: LinearOperator, back_projection: Tensor
    ) -> Tensor:
        target = back_projection.repeat(1, self.images, 1, 1)
        gradient = operator.gram(x, self.scale) - target
        return x - self.rho * gradient - self.mu * (x - z)


class PixelGradient(nn.Module):
    """Project X to one image, take a gradient step, and map its change back to features."""

    gram_first = False

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.rho = nn.Parameter(torch.tensor(0.5))
        self.mu = nn.Parameter(torch.tensor(0.5))
        self.to_image = conv3x3(channels, scale**2)
        self.to_features = conv3x3(scale**2, channels)

    def forward(
        self, x: Tensor, z: Tensor, operator: LinearOperator, back_projection: Tensor
    ) -> Tensor:
        gradient = operator.gram(self.to_image(x), self.scale) - back_projection
        return x - self.to_features(self.rho * gradient) - self.mu * (x - z)


class SigmoidStep(nn.Module):
    """The step of PRL on Z, which is an output of the prior like the single variable of PRL."""

    gram_first = False

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.range = SigmoidRange(channels, scale)

    def forward(
        self, x: Tensor, z: Tensor, operator: LinearOperator, back_projection: Tensor
    ) -> Tensor:
        return self.range(z, operator, back_projection)


class GradientInformed(nn.Module):
    """Convolutions of [X, s·gradient, Z]: the gradient is an input, and no step is taken."""

    gram_first = True

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.images = channels // scale**2
        self.scale = scale
        self.reads = (channels,) * 3
        self.step = nn.Parameter(torch.tensor(0.5))
        self.fuse = nn.Sequential(conv3x3(sum(self.reads), channels), conv1x1(channels, channels))

    def forward(
        self, x: Tensor, z: Tensor, operator: LinearOperator, back_projection: Tensor
    ) -> Tensor:
        target = back_projection.repeat(1, self.images, 1, 1)
        gradient = self.step * (operator.gram(x, self.scale) - target)
        return self.fuse(torch.cat([x, gradient, z], dim=1))


class QuadraticStep(nn.Module):
    """``(ΦᵀΦ + μI)⁻¹(Φᵀy + μZ)``, each channel treated as an image; μ = softplus(weight)."""

    gram_first = False

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.images = channels // scale**2
        self.scale = scale
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(
        self, x: Tensor, z: Tensor, operator: LinearOperator, back_projection: Tensor
    ) -> Tensor:
        def images(features: Tensor) -> Tensor:
            return F.pixel_shuffle(features, self.scale).flatten(0, 1).unsqueeze(1)

        target = images(back_projection.repeat(1, self.images, 1, 1))
        solution = operator.solve(images(z), F.softplus(self.weight), target)
        result = F.pixel_unshuffle(solution.unflatten(0, (len(x), -1)).squeeze(2), self.scale)
        return in_format_of(x, result)


class MultiKernelDown(nn.Module):
    """AVF-D: max-pooling and strided convolutions of three sizes, concatenated and merged."""

    def __init__(self, inputs: int, outputs: int, branches: tuple[str, ...] = AVF_BRANCHES) -> None:
        super().__init__()
        check_subset("avf_branches", branches, AVF_BRANCHES)
        self.branches = nn.ModuleList()
        for name in (n for n in AVF_BRANCHES if n in branches):
            if name == "pool":
                self.branches.append(nn.MaxPool2d(2))
            else:
                self.branches.append(strided(inputs, 4 * inputs, int(name)))
        self.reads = tuple(
            inputs if name == "pool" else 4 * inputs for name in AVF_BRANCHES if name in branches
        )
        self.merge = conv1x1(sum(self.reads), outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.merge(torch.cat([branch(features) for branch in self.branches], dim=1))


def strided(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Convolution that halves height and width; the kernel is even."""
    return nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2 - 1)


DATA_STEPS = {
    "aegr": AEGR,
    "gd_feature": FeatureGradient,
    "gd_pixel": PixelGradient,
    "prl_sigmoid": SigmoidStep,
    "gin": GradientInformed,
    "hqs": QuadraticStep,
}

Z_REFINEMENTS = {
    "rb": ResidualBlock,
    "plain": lambda c: nn.Sequential(conv3x3(c, c), nn.ReLU(), conv3x3(c, c)),
    "none": lambda c: nn.Identity(),
}

# (inputs, outputs) -> module that halves the resolution.
AVF_DOWN = {
    "avf": MultiKernelDown,
    "strided2": lambda i, o: strided(i, o, 2),
    "strided4": lambda i, o: strided(i, o, 4),
    "maxpool": lambda i, o: nn.Sequential(nn.MaxPool2d(2), conv1x1(i, o)),
    "avgpool": lambda i, o: nn.Sequential(nn.AvgPool2d(2), conv1x1(i, o)),
    "unshuffle": lambda i, o: nn.Sequential(nn.PixelUnshuffle(2), conv1x1(4 * i, o)),
}

# (inputs, outputs) -> module that doubles the resolution.
AVF_UP = {
    "tconv": lambda i, o: nn.ConvTranspose2d(i, o, 2, stride=2),
    "shuffle": lambda i, o: nn.Sequential(conv1x1(i, 4 * o), nn.PixelShuffle(2)),
    "bilinear": lambda i, o: nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"), conv3x3(i, o)
    ),
}
