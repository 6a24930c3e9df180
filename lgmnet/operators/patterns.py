"""A Φ that a mirror array or a display can show: patterns of few values, and one scale."""

import torch
from torch import Tensor, nn

from lgmnet.operators.block_sampling import BlockSampling, check_matrix

# 8 bits with a sign show -STEPS to STEPS - 1 parts of full brightness. bf16 holds them exactly.
STEPS = 128
# sampling.phi_values -> what a pixel of a pattern can be, for messages.
VALUES = {
    "binary": "0 or 1",
    "sign": "-1 or 1",
    "8bit": f"a multiple of 1/{STEPS} from -1 to {STEPS - 1}/{STEPS}",
}


class PatternSampling(BlockSampling):
    """Block sampling with Φ = scale · patterns, where the patterns have few values.

    Training changes real numbers, the parameter ``patterns``. Φ is made of the nearest allowed
    patterns (`nearest`). Their gradient is given to the real numbers (straight-through estimate:
    Y. Bengio et al., arXiv:1308.3432).

    A weights file holds what is shown: the allowed patterns as ``operator.patterns``, and one
    number, ``operator.scale``. The state of a run holds the real numbers, so it resumes to the bit.

    Shapes: those of `BlockSampling`.

    Args:
        patterns: ``(m, B²)``; 1 is full brightness.
        scale: one positive number of shape ``()``. Training does not change it.
        values: a key of `VALUES`.
        block_size: side B of a block, in pixels.
        learned: whether the patterns are trained with the network.

    Raises:
        ValueError: see `BlockSampling`.
    """

    patterns: Tensor
    scale: Tensor

    def __init__(
        self,
        patterns: Tensor,
        scale: Tensor,
        values: str = "sign",
        block_size: int = 32,
        learned: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        check_matrix(patterns, block_size)
        self.block_size = self.multiple = block_size
        self.orthonormal = False
        self.values = values
        self._keep("patterns", patterns, learned)
        self.register_buffer("scale", scale.clone())

    @property
    def matrix(self) -> Tensor:  # type: ignore[override]
        """Φ, ``(m, B²)``. Gradients reach ``patterns`` as if these were shown unchanged."""
        shown = nearest(self.patterns.detach(), self.values)
        if self.learned:
            shown = shown + (self.patterns - self.patterns.detach())  # adds zero, and a gradient
        return self.scale * shown

    @property
    def measurements(self) -> int:
        return self.patterns.shape[0]

    def weights(self) -> dict[str, Tensor]:
        """See `LinearOperator.weights`: the patterns that are shown, and the scale."""
        return {"patterns": nearest(self.patterns.detach(), self.values), "scale": self.scale}

    def check_weights(self) -> None:
        """Raise ValueError unless all patterns are allowed and the scale is positive."""
        patterns = self.patterns.detach()
        wrong = patterns != nearest(patterns, self.values)
        if wrong.any():
            raise ValueError(
                f"operator.patterns has {int(wrong.sum())} other values, such as "
                f"{float(patterns[wrong][0]):g}; sampling.phi_values '{self.values}' expects "
                f"{VALUES[self.values]}; load the weights that belong to this config"
            )
        if not self.scale > 0:
            raise ValueError(f"operator.scale is {float(self.scale):g}, expected > 0")

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.values}"


def nearest(patterns: Tensor, values: str) -> Tensor:
    """The allowed pattern that is nearest to each real one; allowed patterns stay unchanged."""
    if values == "binary":
        return (patterns > 0.5).to(patterns)
    if values == "sign":
        return (patterns >= 0).to(patterns) * 2 - 1
    return (patterns * STEPS).round().clamp(-STEPS, STEPS - 1) / STEPS


def start_patterns(matrix: Tensor, values: str) -> tuple[Tensor, Tensor]:
    """Patterns ``(m, pixels)`` that resemble a real Φ, and the scale that makes ‖Φ‖ = 1.

    A matrix that already has the allowed values is used unchanged. Else rows with a negative sum
    change their sign, so that a binary pattern of the mean is not dark. The mean of |Φ| (for 8bit
    the largest) becomes full brightness.
    """
    patterns = matrix
    if not torch.equal(nearest(matrix, values), matrix):
        rows = torch.where(matrix.sum(1, keepdim=True) < 0, -matrix, matrix)
        size = rows.abs().max() * STEPS / (STEPS - 1) if values == "8bit" else rows.abs().mean()
        patterns = rows / size.clamp_min(torch.finfo(rows.dtype).tiny)
        patterns = (1 + patterns) / 2 if values == "binary" else patterns
    norm = torch.linalg.matrix_norm(nearest(patterns, values).double(), 2)
    return patterns, (1 / norm.clamp_min(1e-6)).float()
