"""Isotropic total variation as the prior of ISTA and FISTA."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgmnet.operators.base import in_full_precision
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.momentum import nesterov_momentum

# Upper bound for the eigenvalues of DᵀD, with D = `differences`.
LIPSCHITZ = 8


def differences(image: Tensor) -> Tensor:
    """D: differences to the lower and the right pixel, ``(b, c, H, W)`` -> ``(b, 2, c, H, W)``.

    They are zero at the last row and column (Neumann boundary).
    """
    down = F.pad(image.diff(dim=2), (0, 0, 0, 1))
    right = F.pad(image.diff(dim=3), (0, 1))
    return torch.stack((down, right), dim=1)


def differences_transposed(pairs: Tensor) -> Tensor:
    """Dᵀ: ``(b, 2, c, H, W)`` -> ``(b, c, H, W)``."""
    down = F.pad(pairs[:, 0, :, :-1], (0, 0, 1, 1)).diff(dim=2)
    right = F.pad(pairs[:, 1, :, :, :-1], (1, 1)).diff(dim=3)
    return -(down + right)


def magnitude(pairs: Tensor) -> Tensor:
    """Norm of the differences of all channels at every pixel, ``(b, 1, 1, H, W)``."""
    return pairs.square().sum((1, 2), keepdim=True).sqrt()


class TotalVariation(nn.Module):
    """The proximal mapping of θ TV(x), with TV the sum over the pixels of the norm of D x.

    It uses a fixed number of accelerated projected gradient steps on the dual problem. The norm
    includes both channels of a complex image. The boundary is that of `differences` (Neumann).

    Args:
        iterations: steps on the dual problem, which start at zero.

    Source:
        A. Beck and M. Teboulle, "Fast gradient-based algorithms for constrained total variation
        image denoising and deblurring problems", IEEE TIP 2009.
    """

    def __init__(self, iterations: int = 10) -> None:
        super().__init__()
        require_positive(dual_iterations=iterations)
        self.iterations = iterations

    @in_full_precision
    def forward(self, image: Tensor, threshold: Tensor) -> Tensor:
        """Shapes: image ``(batch, c, H, W)``, threshold θ ``(batch, 1, 1, 1)``.

        On a CPU one image after the other is finished, so that its steps work in the cache.
        """
        if image.device.type == "cpu" and len(image) > 1:
            pairs = zip(image.split(1), threshold.split(1), strict=True)
            return torch.cat([self._denoise(one, bound) for one, bound in pairs])
        return self._denoise(image, threshold)

    def _denoise(self, image: Tensor, threshold: Tensor) -> Tensor:
        bound = threshold[..., None]
        dual = point = torch.zeros_like(differences(image))
        for momentum in itertools.islice(nesterov_momentum(), self.iterations):
            ascent = differences(image - differences_transposed(point))
            previous, dual = dual, within(point + ascent / LIPSCHITZ, bound)
            point = dual + momentum * (dual - previous)
        return image - differences_transposed(dual)

    @in_full_precision
    def largest(self, image: Tensor) -> Tensor:
        """Largest norm of the differences per image, ``(batch, 1, 1, 1)``."""
        return magnitude(differences(image)).amax((1, 2, 3, 4))[:, None, None, None]


def within(pairs: Tensor, bound: Tensor) -> Tensor:
    """Projection of the differences onto a norm of at most ``bound`` at every pixel."""
    shrink = bound / magnitude(pairs).clamp_min(torch.finfo(pairs.dtype).tiny)
    return pairs * shrink.clamp(max=1)
