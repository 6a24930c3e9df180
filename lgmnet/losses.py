"""The training loss and its named terms."""

import torch
from torch import Tensor

from lgmnet.models import Reconstruction
from lgmnet.operators import BlockSampling, LinearOperator

# ε of the Charbonnier loss √(e² + ε²), in the unit of the image.
CHARBONNIER_EPSILON = 1e-3
# Smallest root mean square of an image in the loss nmse; darker images use this value.
DARKEST = 1e-3


def distance(image: Tensor, target: Tensor, kind: str) -> Tensor:
    """``mse``, ``l1`` or ``charbonnier``, means over all pixels; or ``nmse``.

    ``nmse`` is the mean over the images of ‖x̂ − x‖ / ‖x‖ (Deep ADMM-Net). Its gradient is zero for
    a perfect image.
    """
    error = image - target
    if kind == "mse":
        return error.square().mean()
    if kind == "l1":
        return error.abs().mean()
    if kind == "charbonnier":
        return (error.square() + CHARBONNIER_EPSILON**2).sqrt().mean()
    if kind == "nmse":
        norms = torch.linalg.vector_norm(target.flatten(1), dim=1)
        darkest = DARKEST * target[0].numel() ** 0.5
        return (torch.linalg.vector_norm(error.flatten(1), dim=1) / norms.clamp_min(darkest)).mean()
    raise ValueError(f"unknown loss '{kind}', expected mse, l1, charbonnier or nmse")


def orthogonality(operator: LinearOperator) -> Tensor:
    """Mean of (ΦΦᵀ − I)² over the m x m entries (FSOINet)."""
    if not isinstance(operator, BlockSampling):
        raise ValueError(f"{type(operator).__name__} has no sampling matrix to orthogonalise")
    gram = operator.matrix @ operator.matrix.T
    return (gram - torch.eye(len(gram)).to(gram)).square().mean()


def total_loss(
    reconstruction: Reconstruction,
    target: Tensor,
    operator: LinearOperator,
    kind: str = "mse",
    measurement_weight: float = 0.0,
    orthogonality_weight: float = 0.0,
    l1_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its weighted terms by name.

    The measurement term is the mean of (Φx̂ − Φx)², without noise. The term ``absolute`` adds a
    mean |x̂ − x| to the main loss (FISTA-Net); a network cannot add it, because it does not get x.

    Shapes:
        target: ``(batch, 1, H, W)`` in [0, 1], float32.
    """
    image = reconstruction.image.to(target.dtype)
    terms = {kind: distance(image, target, kind), **reconstruction.penalties}
    if measurement_weight:
        terms["measurement"] = measurement_weight * operator(image - target).square().mean()
    if orthogonality_weight:
        terms["phi_orthogonality"] = orthogonality_weight * orthogonality(operator)
    if l1_weight:
        terms["absolute"] = l1_weight * distance(image, target, "l1")
    return torch.stack(list(terms.values())).sum(), terms
