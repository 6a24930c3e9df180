"""Muon: an optimizer whose steps have equal size in all directions of a kernel."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lgmnet.speed.precision import has_bf16_arithmetic

# Quintic Newton-Schulz iteration that drives singular values towards one (Jordan et al., 2024).
COEFFICIENTS = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
# A step has the usual root mean square of a step of Adam, so both can use one learning rate.
ADAM_RMS = 0.2
MOMENTUM = 0.95


class Muon(torch.optim.AdamW):
    """Muon for the groups marked ``muon``, AdamW for the others.

    The momentum of every kernel is flattened to a matrix ``(rows, columns)`` and orthogonalised,
    for all matrices of one shape together. For matrices this equals ``torch.optim.Muon``, which
    takes only matrices. The precision is bf16 on a GPU with bf16 arithmetic, for any
    precision of the training, and the type of the kernel otherwise.

    Args:
        groups: groups of parameters. Parameters of a group with ``"muon": True`` have two or more
            axes. The first axis, the outputs of a convolution, is the rows.
        lr: learning rate of all groups, on the scale of Adam.

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
        """Load a state, and drop the views of the old state."""
        super().load_state_dict(state_dict)
        self._views().clear()

    def _move(self, group: dict[str, Any]) -> None:
        """Update the kernels of a group, and delete their gradients so that Adam skips them."""
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
        return self.__dict__.setdefault("_kept_views", {})  # outside the state, so never saved

    def _view(self, kernel: nn.Parameter) -> "View":
        """Kernel and momentum as matrices; kept, because making them took half of the host time."""
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
            # Adam loads the state and needs the key "step".
            state |= {"average": torch.zeros_like(kernel), "step": torch.zeros(())}
        return state["average"]


class View(NamedTuple):
    """A kernel and the average of its gradients as matrices: views with permuted axes."""

    strides: tuple[int, ...]
    axes: list[int]
    matrix: Tensor
    average: Tensor


def _directions(kernels: list[nn.Parameter], views: list[View]) -> list[Tensor]:
    """Nesterov momentum of the gradients, as matrices."""
    averages = [view.average for view in views]
    gradients = [_gradient(kernel, view) for kernel, view in zip(kernels, views, strict=True)]
    torch._foreach_lerp_(averages, gradients, 1 - MOMENTUM)
    return list(torch._foreach_lerp(gradients, averages, MOMENTUM))


def _gradient(kernel: nn.Parameter, view: View) -> Tensor:
    """The gradient of a kernel as a matrix: a copy if it has another memory order, else a view."""
    gradient = cast(Tensor, kernel.grad)
    if gradient.stride() == view.strides:
        return gradient.as_strided(view.matrix.shape, view.matrix.stride())  # a single call
    return gradient.permute(view.axes).reshape(view.matrix.shape)


def memory_order(kernel: Tensor) -> list[int]:
    """The first axis, then the others from the slowest in memory to the fastest.

    Columns in this order need no copy. Any order is valid: permuted columns give a permuted UVᵀ.
    """
    return [0, *sorted(range(1, kernel.ndim), key=kernel.stride, reverse=True)]


def as_matrix(tensor: Tensor, axes: list[int]) -> Tensor:
    """A view ``(rows, columns)`` of a tensor with permuted axes."""
    return tensor.permute(axes).view(tensor.shape[0], -1)


def alike(matrices: list[Tensor]) -> list[list[int]]:
    """Lists of indices; the matrices of one list have the same shape."""
    places: dict[torch.Size, list[int]] = {}
    for k, matrix in enumerate(matrices):
        places.setdefault(matrix.shape, []).append(k)
    return list(places.values())


def iteration_type(matrix: Tensor) -> torch.dtype:
    """bf16 on a GPU with bf16 arithmetic, which is much faster there; else the matrix type."""
    if matrix.device.type == "cuda" and has_bf16_arithmetic(matrix.device):
        return torch.bfloat16
    return matrix.dtype


def orthogonalise(matrices: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Approximate UVᵀ of every matrix UΣVᵀ in ``(batch, rows, columns)``; Σ becomes 0.7 to 1.2.

    Args:
        dtype: type of the iteration; by default that of the matrices.
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
