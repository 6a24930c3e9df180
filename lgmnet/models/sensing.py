"""Operator, noise and network as one module."""

import math

import torch
from torch import Tensor, nn

from lgmnet.models.base import Reconstruction, UnfoldingNetwork
from lgmnet.operators import LinearOperator
from lgmnet.operators.detector import Detector


class SensingModel(nn.Module):
    """image -> y -> reconstruction.

    This is one module, so a learned Φ is trained, synchronised and saved with the network.

    Args:
        operator: Φ.
        network: reconstructs the image.
        noise_std: standard deviation of the measurement noise, in the unit of y.
        detector: what else happens to y; by default nothing.
    """

    def __init__(
        self,
        operator: LinearOperator,
        network: UnfoldingNetwork,
        noise_std: float = 0.0,
        detector: Detector | None = None,
    ) -> None:
        super().__init__()
        self.operator = operator
        self.network = network
        self.noise_std = noise_std
        self.detector = detector or Detector()

    @property
    def multiple(self) -> int:
        """Height and width of an image must be multiples of this, in pixels."""
        return math.lcm(self.operator.multiple, self.network.multiple)

    def measured_by(self, operator: LinearOperator) -> "SensingModel":
        """This model with another operator (another ratio or mask) and the same network."""
        model = SensingModel(operator, self.network, self.noise_std, self.detector)
        return model.train(self.training)

    def measure(
        self, image: Tensor, name: str | None = None, operator: LinearOperator | None = None
    ) -> Tensor:
        """y = Φx + n, as the detector gives it, of images ``(batch, channels, H, W)``.

        y has a gradient for the image, and for a learned Φ. Use ``torch.no_grad()`` or
        ``y.detach()`` if it is not needed, as for NumPy.

        Args:
            image: 1.0 is white.
            name: name of the image, which fixes the noise; see `Detector.read`.
            operator: used instead of the operator of this model.

        Raises:
            ValueError: the operator or the network does not support the size of the image.
        """
        operator = self.operator if operator is None else operator
        operator.check_image(image, self.network.multiple)
        measurement = operator.stored(operator(image))
        return self.detector.read(measurement, self.noise_std, name, operator.support)

    @torch.no_grad()
    def reconstruct(self, measurement: Tensor) -> Tensor:
        """Reconstruct the image ``(batch, channels, H, W)`` from y: not clipped, no gradient."""
        return self.rebuild(measurement, self.operator).image

    def rebuild(self, measurement: Tensor, operator: LinearOperator) -> Reconstruction:
        """Reconstruct on the canvas of the operator, and cut the result to its image size."""
        canvas = operator.on_canvas()
        found = self.network(measurement, canvas)
        if operator.size is None or canvas is operator:
            return found
        height, width = operator.size
        return found._replace(image=found.image[..., :height, :width])

    def forward(self, image: Tensor, operator: LinearOperator | None = None) -> Reconstruction:
        """Measure and reconstruct, with gradients. In training mode see `UnfoldingNetwork.learn`.

        Args:
            operator: used instead of the operator of this model, see `SamplingConfig.draw`.
        """
        learned = self.network.learn(image) if self.training else None
        if learned is not None:
            return learned
        operator = self.operator if operator is None else operator
        return self.rebuild(self.measure(image, operator=operator), operator)
