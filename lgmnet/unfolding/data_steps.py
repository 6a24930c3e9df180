"""Data steps: they move an image towards the measurement."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgmnet.operators import LinearOperator
from lgmnet.unfolding.blocks import conv3x3
from lgmnet.unfolding.layout import convolve_together


class GradientStep(nn.Module):
    """x − ρ Φᵀ(Φx − y) with a learned step size ρ.

    Args:
        step: ρ before training; unconstrained.
    """

    def __init__(self, step: float = 0.5) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step))

    def forward(self, image: Tensor, measurement: Tensor, operator: LinearOperator) -> Tensor:
        return image - self.step * operator.adjoint(operator(image) - measurement)


class QuadraticStep(nn.Module):
    """(ΦᵀΦ + μI)⁻¹(Φᵀy + μx) with a learned, positive weight μ: half-quadratic splitting.

    Args:
        weight: μ before training. The trained parameter is the inverse softplus of μ.
    """

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(math.log(math.expm1(weight))))

    @property
    def weight(self) -> Tensor:
        return F.softplus(self.raw)

    def forward(self, image: Tensor, measurement: Tensor, operator: LinearOperator) -> Tensor:
        return operator.solve(image, self.weight, operator.adjoint(measurement))


class NoStep(nn.Module):
    """The image as it is: for networks without data steps. ``step`` is not used."""

    def __init__(self, step: float = 0.0) -> None:
        super().__init__()

    def forward(self, image: Tensor, measurement: Tensor, operator: LinearOperator) -> Tensor:
        return image


class SigmoidRange(nn.Module):
    """x − σ(conv[x, ΦᵀΦx, Φᵀy]) on features; the learned values that are subtracted lie in (0, 1).

    Shapes:
        features, result: ``(batch, channels, H/scale, W/scale)``; channels is a multiple of scale².
        back_projection: Φᵀy, pixel-unshuffled: ``(batch, scale², H/scale, W/scale)``.
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.reads = channels, channels, scale**2
        self.fuse = conv3x3(sum(self.reads), channels)

    def forward(
        self, features: Tensor, operator: LinearOperator, back_projection: Tensor
    ) -> Tensor:
        parts = [features, operator.gram(features, self.scale), back_projection]
        return features - torch.sigmoid(convolve_together(self.fuse, parts))
