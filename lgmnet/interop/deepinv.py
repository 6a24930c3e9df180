"""Operators and models for deepinv, and its physics for the networks of this package.

It needs ``pip install deepinv`` (0.5 or newer), which needs torchvision.
"""

from typing import Any

import torch
from deepinv.models import Reconstructor
from deepinv.physics import Inpainting, LinearPhysics
from deepinv.physics.forward import ComposedLinearPhysics
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

    @property
    def mask(self) -> Tensor:
        """1 where y is measured, ``(1, *measurement_shape)``; splitting losses split it.

        Raises:
            AttributeError: y is measured everywhere, or the operator has no fixed size.
        """
        support, size = self.operator.support, self.operator.size
        if support is None or size is None:
            raise AttributeError("y is measured everywhere")
        return support.float().expand(1, *self.operator.measurement_shape(*size))

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
        return self.model.rebuild(y, operator_of(physics)).image


def operator_of(physics: LinearPhysics) -> LinearOperator:
    """The operator of an `OperatorPhysics`, or of one that a splitting loss has masked.

    Raises:
        ValueError: it is another physics.
    """
    composed = isinstance(physics, ComposedLinearPhysics)
    first, *masks = physics.physics_list if composed else [physics]
    operator = getattr(first, "operator", None)
    masked = all(isinstance(part, Inpainting) for part in masks)
    if not isinstance(operator, LinearOperator) or not masked:
        raise ValueError(
            f"the physics is {type(physics).__name__}, expected OperatorPhysics; wrap it as "
            "OperatorPhysics(PhysicsOperator(physics, channels, size))"
        )
    for part in masks:
        operator = PartOperator(operator, part.mask)
    return operator


class PartOperator(LinearOperator):
    """A part of the numbers that an operator measures: mask · Φx. The other numbers are zero.

    Args:
        mask: 1 for a number that is kept, 0 for another; ``(batch, *measurement_shape)``, or 1 in
            place of the batch. It fits a batch of this length, or feature channels of such a batch
            (see `LinearOperator.gram`).
    """

    mask: Tensor

    def __init__(self, operator: LinearOperator, mask: Tensor) -> None:
        super().__init__()
        self.operator, self.channels, self.size = operator, operator.channels, operator.size
        self.multiple = operator.multiple
        self.register_buffer("mask", mask)

    @property
    def support(self) -> Tensor:
        return self.mask.bool()

    def sizes(self) -> dict[str, int]:
        return self.operator.sizes()

    def measurement_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.operator.measurement_shape(height, width)

    @in_full_precision
    def forward(self, image: Tensor) -> Tensor:
        return self._kept(self.operator(image))

    @in_full_precision
    def adjoint(self, measurement: Tensor) -> Tensor:
        return self.operator.adjoint(self._kept(measurement))

    def _kept(self, measurement: Tensor) -> Tensor:
        copies = len(measurement) // len(self.mask)
        return self.mask.repeat_interleave(copies, 0) * measurement


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
