"""Muon: steps of equal size in all directions of a kernel."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lgmnet.speed.precision import has_bf16_arithmetic

# Quintic Newton-Schulz iteration that drives singular values towards one (Jordan et al., 2024).
COEFFICIENTS = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
# A step has the root mean square that steps of Adam usually have, so both share one rate.
ADAM_RMS = 0.2
MOMENTUM = 0.95


class Muon(torch.optim.AdamW):
    """Muon for the groups marked ``muon``, AdamW for the others.

    The momentum of every kernel, flattened to a matrix ``(rows, columns)``, is made orthogonal;
    matrices of one shape together. On matrices this is ``torch.optim.Muon``, which takes no others.
    It is made orthogonal in bf16 on a GPU with bf16 arithmetic, whatever the precision of the
    training, and in the type of the kernel elsewhere.

    Args:
        groups: of parameters; those marked ``"muon": True`` have two axes or more. The first makes
            the rows: the outputs of a convolution.
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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; the kept views are of the one before."""
        super().load_state_dict(state_dict)
        self._views().clear()

    def _move(self, group: dict[str, Any]) -> None:
        """Step with the kernels of a group, and leave no gradient of them to Adam."""
        kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
        if not kernels:
            return
        views = [self._view(kernel) for kernel in kernels]
        matrices = [view.matrix for view in views]
        directions = _directions(kernels, views)
        if group["weight_decay"]:
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        dtype = iteration_type(matrices[0])
        for places in alike(matrices):
            steps = orthogonalise(torch.stack([directions[k] for k in places]), dtype)
            length = group["lr"] * ADAM_RMS * max(steps.shape[1:]) ** 0.5
            torch._foreach_sub_([matrices[k] for k in places], steps.unbind(), alpha=length)
        for kernel in kernels:
            kernel.grad = None

    def _views(self) -> dict[nn.Parameter, "View"]:
        return self.__dict__.setdefault("_kept_views", {})  # not of the state, so never saved

    def _view(self, kernel: nn.Parameter) -> "View":
        """Kernel and momentum as matrices. Making these anew took half of a step's host time."""
        view = self._views().get(kernel)
        if view is None or view.strides != kernel.stride():
            axes = memory_order(kernel)
            averages = as_matrix(self._average(kernel), axes)
            view = View(kernel.stride(), axes, as_matrix(kernel, axes), averages)
            self._views()[kernel] = view
        return view

    def _average(self, kernel: nn.Parameter) -> Tensor:
        state = self.state[kernel]
        if not state:
            # Adam, which loads the state, looks for a step.
            state |= {"average": torch.zeros_like(kernel), "step": torch.zeros(())}
        return state["average"]


class View(NamedTuple):
    """A kernel and the average of its gradients as matrices: views with axes in this order."""

    strides: tuple[int, ...]
    axes: list[int]
    matrix: Tensor
    average: Tensor


def _directions(kernels: list[nn.Parameter], views: list[View]) -> list[Tensor]:
    """Nesterov momentum of the gradients, as matrices."""
    averages = [view.average for view in views]
    # A gradient may lie in memory otherwise than its kernel; then this is a copy.
    gradients = [
        kernel.grad.permute(view.axes).reshape(view.matrix.shape)  # type: ignore[union-attr]
        for kernel, view in zip(kernels, views, strict=True)
    ]
    torch._foreach_lerp_(averages, gradients, 1 - MOMENTUM)
    return list(torch._foreach_lerp(gradients, averages, MOMENTUM))


def memory_order(kernel: Tensor) -> list[int]:
    """The first axis, then the others from the slowest in memory to the fastest.

    Columns in this order need no copy. They may stand in any: with a matrix its UVᵀ is permuted.
    """
    return [0, *sorted(range(1, kernel.ndim), key=kernel.stride, reverse=True)]


def as_matrix(tensor: Tensor, axes: list[int]) -> Tensor:
    """A view ``(rows, columns)`` of a tensor whose axes are put in this order before."""
    return tensor.permute(axes).view(tensor.shape[0], -1)


def alike(matrices: list[Tensor]) -> list[list[int]]:
    """The places of matrices of one shape."""
    places: dict[torch.Size, list[int]] = {}
    for k, matrix in enumerate(matrices):
        places.setdefault(matrix.shape, []).append(k)
    return list(places.values())


def iteration_type(matrix: Tensor) -> torch.dtype:
    """bf16, in which GPUs multiply many times faster; on a CPU the type of the matrix."""
    if matrix.device.type == "cuda" and has_bf16_arithmetic(matrix.device):
        return torch.bfloat16
    return matrix.dtype


def orthogonalise(matrices: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """UVᵀ of every matrix UΣVᵀ in ``(batch, rows, columns)``, nearly: Σ becomes 0.7 to 1.2.

    Args:
        dtype: what to iterate in; that of the matrices by default.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    x = wide / wide.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    x = x.to(dtype or x.dtype)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b G + c G²
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a X + (b G + c G²) X
    return torch.empty_like(matrices).copy_(x.mT if tall else x)
