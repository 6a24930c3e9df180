"""Steps towards the measurement."""

import torch
from torch import Tensor, nn

from lgmnet.operators import LinearOperator


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
