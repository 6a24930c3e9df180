"""ISTA and FISTA: the classical algorithms behind the networks. They need no training."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork, Watch
from lgmnet.models.ista_transforms import BlockDCT, SparsePrior, Wavelet
from lgmnet.models.signal_wavelet import SignalWavelet
from lgmnet.models.total_variation import TotalVariation
from lgmnet.models.watching import FIRST, stage_name
from lgmnet.operators import LinearOperator
from lgmnet.registry import require_choice
from lgmnet.unfolding.momentum import nesterov_momentum, no_momentum

# Prior -> default λ, relative to the largest coefficient. The value for tv was chosen on five chest
# MR images with a mask of ratio 20 %, that for signal_wavelet on synthetic ECG (docs/signals.md).
WEIGHTS = {
    "block_dct": 0.003, "image_dct8": 0.003, "wavelet": 0.003, "signal_wavelet": 0.003, "tv": 0.001,
}  # fmt: skip
# Continuation: λ is multiplied by this factor after every 10 iterations.
CONTINUATION_FACTOR, CONTINUATION_EVERY = 0.9, 10


@MODELS.register("ista")
class ISTA(UnfoldingNetwork):
    """ISTA: min ½‖Φx − y‖² + λ‖Ψx‖₁ by gradient steps of size 1/L and soft thresholding in Ψ.

    L is the largest eigenvalue of ΦᵀΦ, and x⁰ = Φᵀy. A real result is clipped to [0, 1]. For a
    complex image, which has two channels, the magnitudes of the coefficients are thresholded.

    Args:
        block_size: B, from the operator; None for an operator without blocks.
        iterations: largest number of iterations.
        prior: Ψ is ``block_dct``, the DCT of each measured block; ``image_dct8``, the DCT of 8 x 8
            blocks of the image; ``wavelet``; or ``signal_wavelet``, for a signal that is stored row
            after row, see `SignalWavelet`. With ``tv`` the total variation replaces ‖Ψx‖₁, see
            `TotalVariation`.
        shifts: shifts of Ψ along each axis, for cycle spinning; 1: no cycle spinning.
        wavelet: ``haar`` or ``db4``.
        levels: levels of the wavelet transform.
        weight: λ, for each image relative to the largest coefficient of ΨΦᵀy; for ``tv`` relative
            to the largest difference of pixels of Φᵀy. The default is in `WEIGHTS`.
        continuation: factor of the initial λ, which falls by 0.9 every 10 iterations to its final
            value; 1: no continuation.
        tolerance: an image is done when ‖x⁺ − x‖ ≤ tolerance ‖x‖, with λ at its final value.
        dual_iterations: steps of the proximal mapping of ``tv``.

    Shapes:
        measurement of the operator -> image ``(batch, c, H, W)``; c is 1 or 2 channels.

    Paper:     I. Daubechies, M. Defrise and C. De Mol, Comm. Pure Appl. Math. 57, 2004.
    Original:  an algorithm without a reference code; block size, Ψ and λ are our choices.
    Differences from the original: DC and the coarsest band are not thresholded.
    """

    any_channels = True
    momentum: Callable[[], Iterator[float]] = staticmethod(no_momentum)

    def __init__(
        self,
        block_size: int | None = None,
        iterations: int = 1000,
        prior: str = "image_dct8",
        shifts: int = 1,
        wavelet: str = "db4",
        levels: int = 3,
        weight: float | None = None,
        continuation: float = 1.0,
        tolerance: float = 1e-5,
        dual_iterations: int = 10,
    ) -> None:
        super().__init__()
        require_choice("prior", prior, WEIGHTS)
        self.weight = WEIGHTS[prior] if weight is None else weight
        check_options(iterations, self.weight, continuation, tolerance)
        check_prior(prior, block_size, shifts)
        priors: dict[str, Callable[[], SparsePrior | SignalWavelet | TotalVariation]] = {
            "block_dct": lambda: SparsePrior(BlockDCT(block_size or 0), shifts),
            "image_dct8": lambda: SparsePrior(BlockDCT(8), shifts),
            "wavelet": lambda: SparsePrior(Wavelet(wavelet, levels), shifts),
            "signal_wavelet": lambda: SignalWavelet(wavelet, levels, shifts),
            "tv": lambda: TotalVariation(dual_iterations),
        }
        self.prior = priors[prior]()
        self.iterations = iterations
        self.continuation = continuation
        self.tolerance = tolerance

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        if watch is None:
            image = deque(self.iterates(measurement, operator), maxlen=1).pop()
            return Reconstruction(in_range(image))
        watch(in_range(operator.adjoint(measurement)), FIRST)
        for k, image in enumerate(self.iterates(measurement, operator)):
            watch(in_range(image), stage_name(k))
        return Reconstruction(in_range(image))

    def iterates(self, measurement: Tensor, operator: LinearOperator) -> Iterator[Tensor]:
        """x¹, x², …, not clipped. An image that is done does not change any more.

        On the meta device tensors have no values, so no image is ever done.
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
        """λ of iteration k divided by its final value, without the lower limit 1."""
        return self.continuation * CONTINUATION_FACTOR ** (k // CONTINUATION_EVERY)

    def stages(self) -> Iterable[nn.Module]:
        return (self.prior,)


@MODELS.register("fista")
class FISTA(ISTA):
    """FISTA: ISTA with momentum, so every gradient is computed at an extrapolated point.

    Arguments, shapes and differences are those of `ISTA`. FISTA needs far fewer iterations.

    Paper:     A. Beck and M. Teboulle, SIAM J. Imaging Sciences 2(1), 2009.
    """

    momentum = staticmethod(nesterov_momentum)


def in_range(image: Tensor) -> Tensor:
    """A real image clipped to [0, 1]; a complex one, which has two channels, unchanged."""
    return image.clamp(0, 1) if image.shape[1] == 1 else image


def norm(images: Tensor) -> Tensor:
    """‖x‖ of every image, ``(batch, 1, 1, 1)``."""
    return images.square().sum((1, 2, 3), keepdim=True).sqrt()


def check_prior(prior: str, block_size: int | None, shifts: int) -> None:
    """Raise ValueError if an option does not fit the prior."""
    if prior == "block_dct" and block_size is None:
        raise ValueError(
            "prior is 'block_dct', but the operator has no blocks; set model.prior to image_dct8, "
            "wavelet or tv"
        )
    if prior == "tv" and shifts != 1:
        raise ValueError(f"shifts is {shifts}, but tv does not depend on shifts; leave it out")


def check_options(iterations: int, weight: float, continuation: float, tolerance: float) -> None:
    for name, value, least in (
        ("iterations", iterations, 1),
        ("weight", weight, 0),
        ("continuation", continuation, 1),
        ("tolerance", tolerance, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
