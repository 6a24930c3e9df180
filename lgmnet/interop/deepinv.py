"""Operators and models for deepinv, and its physics for the networks of this package.

It needs ``pip install deepinv`` (0.5 or newer), which needs torchvision.
"""

from typing import Any

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from torch import Tensor

from lgmnet.models import SensingModel
from lgmnet.operators import LinearOperator
from lgmnet.operators.base import in_full_precision


class OperatorPhysics(LinearPhysics):
    """An operator as a physics of deepinv, without noise.

    Options are arguments of LinearPhysics, such as ``noise_model``. Gradients reach a learned Φ.
    """

    def __init__(self, operator: LinearOperator, **options: Any) -> None:
        super().__init__(**options)
        self.operator = operator

    def A(self, x: Tensor, **_: Any) -> Tensor:
        """Φx; see `LinearOperator.forward`."""
        return self.operator(x)

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        """Φᵀy; see `LinearOperator.adjoint`."""
        return self.operator.adjoint(y)


class ModelReconstructor(Reconstructor):
    """A model as a reconstructor of deepinv: ``(y, physics)`` -> image. Its Φ is a part of it."""

    def __init__(self, model: SensingModel) -> None:
        super().__init__()
        self.model = model

    @property
    def physics(self) -> OperatorPhysics:
        """The Φ of the model."""
        return OperatorPhysics(self.model.operator)

    def forward(self, y: Tensor, physics: LinearPhysics, **_: Any) -> Tensor:
        """The image ``(batch, channels, H, W)``, 1.0 is white.

        Raises:
            ValueError: the physics is not one of an operator; wrap it first (`PhysicsOperator`).
        """
        operator = getattr(physics, "operator", None)
        if not isinstance(operator, LinearOperator):
            raise ValueError(
                f"the physics is {type(physics).__name__}, expected OperatorPhysics; wrap it as "
                "OperatorPhysics(PhysicsOperator(physics, channels, size))"
            )
        return self.model.rebuild(y, operator).image


class PhysicsOperator(LinearOperator):
    """A linear physics of deepinv as an operator, for images of one size.

    Args:
        physics: real, linear, with A and A_adjoint.
        channels: of an image.
        size: height and width of an image, in pixels.
    """

    def __init__(self, physics: LinearPhysics, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.physics, self.channels, self.size = physics, channels, size

    def measurement_shape(self, height: int, width: int) -> tuple[int, ...]:
        image = torch.zeros(1, self.channels, height, width).to(self._like())
        return tuple(self.physics.A(image).shape[1:])

    @in_full_precision
    def forward(self, image: Tensor) -> Tensor:
        self.check_image(image)
        return self.physics.A(image)

    @in_full_precision
    def adjoint(self, measurement: Tensor) -> Tensor:
        return self.physics.A_adjoint(measurement)
