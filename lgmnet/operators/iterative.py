"""What any operator can do with Φ and Φᵀ alone: solve, and find the norm of Φ."""

from collections.abc import Callable

import torch
from torch import Tensor

# Residuals are reduced to so many times the rounding of their type.
ROUNDINGS = 10


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], target: Tensor, start: Tensor, iterations: int = 200
) -> Tensor:
    """The solution of ``apply(x) = target``, each element of the batch by itself.

    Gradients pass through all iterations. It ends when every residual is a few roundings of its
    target, or after so many iterations.

    Args:
        apply: a symmetric map that is positive definite, or semidefinite with ``target`` in its
            range.
        start: the first estimate.

    Source:
        M. Hestenes and E. Stiefel, J. Research NBS 49(6), 1952.
    """
    x, residual = start, target - apply(start)
    direction, energy = residual, dot(residual, residual)
    goal = (ROUNDINGS * torch.finfo(target.dtype).eps) ** 2 * dot(target, target)
    for _ in range(iterations):
        if not target.is_meta and (energy <= goal).all():
            break
        image = apply(direction)
        step = ratio(energy, dot(direction, image))
        x, residual = x + step * direction, residual - step * image
        following = dot(residual, residual)
        direction = residual + ratio(following, energy) * direction
        energy = following
    return x


def largest_eigenvalue(
    apply: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 100
) -> float:
    """Of a symmetric positive map, by power iteration from ``start``; never above the true one."""
    x, value = start, 0.0
    for _ in range(iterations):
        x = x / x.norm()
        image = apply(x)
        value = float((x * image).sum())
        x = image
    return value


def dot(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of every element of the batch, ``(batch, 1, …)``."""
    return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.ndim - 1))


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, and 0 where both are 0: there the solution is found."""
    return torch.where(below == 0, torch.zeros_like(above), above / below.where(below != 0, 1))
