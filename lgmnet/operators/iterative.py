"""Iterative methods that need only Φ and Φᵀ: conjugate gradients and power iteration."""

from collections.abc import Callable

import torch
from torch import Tensor

# Conjugate gradients stop at a relative residual of this many rounding errors.
ROUNDINGS = 10


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], target: Tensor, start: Tensor, iterations: int = 200
) -> Tensor:
    """The solution of ``apply(x) = target``, separately for each element of the batch.

    Gradients pass through all iterations.

    Args:
        apply: a symmetric map that is positive definite, or semidefinite with ``target`` in its
            range.
        start: the first estimate.
        iterations: largest number of iterations. They end earlier if the residual of every element
            is at most 10 rounding errors (`ROUNDINGS`) of its target.

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
    """Largest eigenvalue of a symmetric positive map, by power iteration from ``start``.

    The result is never larger than the true value.
    """
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
    """above / below; 0 where ``below`` is 0, because the solution is then reached."""
    return torch.where(below == 0, torch.zeros_like(above), above / below.where(below != 0, 1))
