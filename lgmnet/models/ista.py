"""ISTA and FISTA: the classical algorithms that the networks unfold. Nothing is trained."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork
from lgmnet.models.ista_transforms import BlockDCT, SparsePrior, Wavelet
from lgmnet.operators import LinearOperator
from lgmnet.registry import require_choice

PRIORS = ("block_dct", "image_dct8", "wavelet")
# A continued λ falls by this factor every so many iterations.
CONTINUATION_FACTOR, CONTINUATION_EVERY = 0.9, 10


def no_momentum() -> Iterator[float]:
    return itertools.repeat(0.0)


def nesterov_momentum() -> Iterator[float]:
    """(t − 1) / t⁺ with t = 1 at first and t⁺ = (1 + √(1 + 4 t²)) / 2."""
    t = 1.0
    while True:
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        yield (t - 1) / following
        t = following


@MODELS.register("ista")
class ISTA(UnfoldingNetwork):
    """ISTA: min ½‖Φx − y‖² + λ‖Ψx‖₁ by gradient steps 1/L and soft thresholding in Ψ.

    L is the largest eigenvalue of ΦᵀΦ, x⁰ = Φᵀy, and the result is clipped to [0, 1].

    Args:
        block_size: B, from the operator.
        iterations: at most so many.
        prior: Ψ is ``block_dct``, the DCT of each measured block; ``image_dct8``, that of 8 x 8
            blocks of the image; or ``wavelet``.
        shifts: cycle spinning over so many shifts of Ψ along each axis; 1 is Ψ alone.
        wavelet: ``haar`` or ``db4``.
        levels: of the wavelet.
        weight: λ relative to the largest coefficient of ΨΦᵀy, image by image.
        continuation: λ starts so many times larger, and falls by 0.9 every 10 iterations; 1 does
            without.
        tolerance: an image is done when ‖x⁺ − x‖ ≤ tolerance ‖x‖, with λ at its final value.

    Shapes:
        measurement ``(batch, m, H/B, W/B)`` -> image ``(batch, 1, H, W)``.

    Paper:     I. Daubechies, M. Defrise and C. De Mol, Comm. Pure Appl. Math. 57, 2004.
    Original:  an algorithm without a reference code; block size, Ψ and λ are our choices.
    Differences from the original: DC and the coarsest band are not thresholded.
    """

    momentum: Callable[[], Iterator[float]] = staticmethod(no_momentum)

    def __init__(
        self,
        block_size: int,
        iterations: int = 1000,
        prior: str = "image_dct8",
        shifts: int = 1,
        wavelet: str = "db4",
        levels: int = 3,
        weight: float = 0.003,
        continuation: float = 1.0,
        tolerance: float = 1e-5,
    ) -> None:
        super().__init__()
        check_options(iterations, prior, weight, continuation, tolerance)
        transforms: dict[str, Callable[[], BlockDCT | Wavelet]] = {
            "block_dct": lambda: BlockDCT(block_size),
            "image_dct8": lambda: BlockDCT(8),
            "wavelet": lambda: Wavelet(wavelet, levels),
        }
        self.prior = SparsePrior(transforms[prior](), shifts)
        self.iterations = iterations
        self.weight = weight
        self.continuation = continuation
        self.tolerance = tolerance

    def forward(self, measurement: Tensor, operator: LinearOperator) -> Reconstruction:
        image = deque(self.iterates(measurement, operator), maxlen=1).pop()
        return Reconstruction(image.clamp(0, 1))

    def iterates(self, measurement: Tensor, operator: LinearOperator) -> Iterator[Tensor]:
        """x¹, x², …, not clipped. An image that is done stays as it is.

        Without values, on the meta device, none is ever done.
        """
        step = 1.0 if measurement.is_meta else 1 / operator.lipschitz()
        image = point = operator.adjoint(measurement)
        target = self.weight * self.prior.largest(image)
        done = torch.zeros_like(target, dtype=torch.bool)
        for k, momentum in zip(range(self.iterations), self.momentum(), strict=False):
            excess = max(1.0, self.relative_weight(k))
            gradient = operator.adjoint(operator(point) - measurement)
            update = self.prior(point - step * gradient, step * excess * target)
            update = torch.where(done, image, update)
            point = update + momentum * (update - image)
            if excess == 1:
                done = norm(update - image) <= self.tolerance * norm(image)
            image = update
            yield image
            if not measurement.is_meta and done.all():
                return

    def relative_weight(self, k: int) -> float:
        """λ of iteration k, relative to its final value, if it went on falling."""
        return self.continuation * CONTINUATION_FACTOR ** (k // CONTINUATION_EVERY)

    def stages(self) -> Iterable[nn.Module]:
        return (self.prior,)


@MODELS.register("fista")
class FISTA(ISTA):
    """FISTA: as ISTA, with every step taken at a point beyond the last estimate.

    Arguments, shapes and differences are those of `ISTA`; far fewer iterations are needed.

    Paper:     A. Beck and M. Teboulle, SIAM J. Imaging Sciences 2(1), 2009.
    """

    momentum = staticmethod(nesterov_momentum)


def norm(images: Tensor) -> Tensor:
    """‖x‖ of every image, ``(batch, 1, 1, 1)``."""
    return images.square().sum((1, 2, 3), keepdim=True).sqrt()


def check_options(
    iterations: int, prior: str, weight: float, continuation: float, tolerance: float
) -> None:
    require_choice("prior", prior, PRIORS)
    for name, value, least in (
        ("iterations", iterations, 1),
        ("weight", weight, 0),
        ("continuation", continuation, 1),
        ("tolerance", tolerance, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
