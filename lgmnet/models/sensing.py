"""Operator, noise and network as one module."""

import math

import torch
from torch import Tensor, nn

from lgmnet.models.base import Reconstruction, UnfoldingNetwork
from lgmnet.operators import BlockSampling, LinearOperator
from lgmnet.operators.block_sampling import check_image
from lgmnet.operators.noise import add_noise


class SensingModel(nn.Module):
    """image -> y -> reconstruction.

    One module, so that a learned Φ trains, synchronises and saves with the network.

    Args:
        operator: Φ.
        network: what rebuilds the image.
        noise_std: standard deviation of the measurement noise, in the unit of y.
    """

    def __init__(
        self, operator: LinearOperator, network: UnfoldingNetwork, noise_std: float = 0.0
    ) -> None:
        super().__init__()
        self.operator = operator
        self.network = network
        self.noise_std = noise_std
        # A training step for a range of ratios calls the model with so many first rows of Φ.
        self.rows: int | None = None

    @property
    def multiple(self) -> int:
        """Height and width of an image must be multiples of this, in pixels."""
        return math.lcm(self.operator.multiple, self.network.multiple)

    def first(self, rows: int) -> "SensingModel":
        """This model with the first rows of Φ alone: a lower ratio. Φ and network are shared.

        Raises:
            ValueError: the operator has not so many rows, or none at all.
        """
        if not isinstance(self.operator, BlockSampling):
            raise ValueError(f"{type(self.operator).__name__} has no rows to choose from")
        part = SensingModel(self.operator.first(rows), self.network, self.noise_std)
        return part.train(self.training)

    def measure(self, image: Tensor, name: str | None = None) -> Tensor:
        """y = Φx + n of images ``(batch, 1, H, W)`` in [0, 1]; see `BlockSampling` for y.

        Args:
            name: name of the image, which fixes the noise; see `add_noise`.
        """
        operator = self.operator
        if operator.channels == 1:  # others say themselves what fits
            check_image(image, self.multiple)
        return add_noise(operator(image), self.noise_std, name, operator.support)

    @torch.no_grad()
    def reconstruct(self, measurement: Tensor) -> Tensor:
        """The image ``(batch, 1, H, W)`` rebuilt from y, not clipped, without a gradient."""
        return self.network(measurement, self.operator).image

    def forward(self, image: Tensor) -> Reconstruction:
        """Measure and rebuild: what training needs."""
        if self.rows is not None:
            return self.first(self.rows)(image)
        return self.network(self.measure(image), self.operator)
