"""Muon: steps of equal size in all directions of a kernel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz iteration that drives singular values towards one (Jordan et al., 2024).
COEFFICIENTS = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
# A step has the root mean square that steps of Adam usually have, so both share one rate.
ADAM_RMS = 0.2
MOMENTUM = 0.95


class Muon(torch.optim.AdamW):
    """Muon for the groups marked ``muon``, AdamW for the others.

    The momentum of every kernel, flattened to a matrix ``(out, rest)``, is made orthogonal;
    kernels of one shape together. On matrices this is ``torch.optim.Muon``, which takes no others.

    Args:
        groups: of parameters; those marked ``"muon": True`` have two axes or more, outputs first.
        lr: learning rate of all groups, on the scale of Adam's.

    Source:
        K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the scale
        of J. Liu et al., "Muon is scalable for LLM training", arXiv:2502.16982.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            if group.get("muon"):
                self._move(group)
        return super().step(closure)

    def _move(self, group: dict[str, Any]) -> None:
        """Step with the kernels of a group, and leave no gradient of them to Adam."""
        alike: dict[torch.Size, list[nn.Parameter]] = {}
        for kernel in group["params"]:
            if kernel.grad is not None:
                alike.setdefault(kernel.shape, []).append(kernel)
        for kernels in alike.values():
            directions = torch.stack([self._direction(kernel) for kernel in kernels]).flatten(2)
            steps = orthogonalise(directions)
            length = group["lr"] * ADAM_RMS * max(steps.shape[1:]) ** 0.5
            for kernel, step in zip(kernels, steps, strict=True):
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.sub_(step.view(kernel.shape), alpha=length)
                kernel.grad = None

    def _direction(self, kernel: nn.Parameter) -> Tensor:
        """Nesterov momentum of the gradient."""
        gradient: Tensor = kernel.grad  # type: ignore[assignment]
        state = self.state[kernel]
        if not state:
            # Adam, which loads the state, looks for a step.
            state |= {"average": torch.zeros_like(kernel), "step": torch.zeros(())}
        state["average"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["average"], MOMENTUM)


def orthogonalise(matrices: Tensor) -> Tensor:
    """UVᵀ of every matrix UΣVᵀ in ``(batch, rows, columns)``, nearly: Σ becomes 0.7 to 1.2."""
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = wide / wide.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x
