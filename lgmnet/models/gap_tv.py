"""GAP-TV: projections on the measurement, and total variation band by band. Nothing is trained."""

from collections.abc import Callable, Iterable, Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork, Watch
from lgmnet.models.total_variation import TotalVariation
from lgmnet.models.watching import show, stage_name
from lgmnet.operators import LinearOperator
from lgmnet.unfolding.checks import require_positive


@MODELS.register("gap_tv")
class GAPTV(UnfoldingNetwork):
    """Generalised alternating projection with total variation.

    Every iteration takes the closest image that Φ measures as y, and then the proximal mapping of
    θ TV of every channel.

    Args:
        iterations: of projection and proximal mapping.
        weight: θ, relative to the root mean square of the projection of the black image. So an
            image of twice the brightness has a reconstruction of twice the brightness.
        dual_iterations: steps of the proximal mapping, see `TotalVariation`.
        accelerated: whether the residuals are added up, see `alternate`.

    Shapes:
        measurement as the operator has it -> image ``(batch, c, H, W)``.

    Paper:     X. Yuan, ICIP 2016, arXiv:1511.03890.
    Original:  an algorithm; there the proximal mapping is Chambolle's or by clipping.
    Differences from the original: the total variation is isotropic, its proximal mapping is that of
    Beck and Teboulle, θ is relative to the measurement, and its value is our choice.
    """

    any_channels = True

    def __init__(
        self,
        iterations: int = 100,
        weight: float = 0.1,
        dual_iterations: int = 5,
        accelerated: bool = True,
    ) -> None:
        super().__init__()
        require_positive(iterations=iterations)
        if weight < 0:
            raise ValueError(f"weight is {weight}, expected at least 0")
        self.prior = TotalVariation(dual_iterations)
        self.iterations = iterations
        self.weight = weight
        self.accelerated = accelerated

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        black = torch.zeros_like(operator.adjoint(measurement))
        threshold = self.weight * root_mean_square(operator.project(black, measurement))
        steps = [lambda image: self.denoise(image, threshold)] * self.iterations
        return Reconstruction(alternate(measurement, operator, steps, self.accelerated, watch))

    def denoise(self, image: Tensor, threshold: Tensor) -> Tensor:
        """The proximal mapping for each channel; the threshold is ``(batch, 1, 1, 1)``."""
        channels = image.shape[1]
        planes = rearrange(image, "b c h w -> (b c) 1 h w")
        planes = self.prior(planes, repeat(threshold, "b 1 1 1 -> (b c) 1 1 1", c=channels))
        return rearrange(planes, "(b c) 1 h w -> b c h w", c=channels)

    def stages(self) -> Iterable[nn.Module]:
        return (self.prior,)


def alternate(
    measurement: Tensor,
    operator: LinearOperator,
    steps: Sequence[Callable[[Tensor], Tensor]],
    accelerated: bool,
    watch: Watch | None = None,
) -> Tensor:
    """Alternate projections on the measurement with ``steps``, which denoise; black comes first.

    Args:
        accelerated: add what is left of y after a step to the target of the next projection.
        watch: see `UnfoldingNetwork.forward`.
    """
    image, target = torch.zeros_like(operator.adjoint(measurement)), measurement
    for k, denoise in enumerate(steps):
        image = denoise(operator.project(image, target))
        show(watch, image, stage_name(k))
        if accelerated:
            target = target + (measurement - operator(image))
    return image


def root_mean_square(images: Tensor) -> Tensor:
    """Of every image, ``(batch, 1, 1, 1)``."""
    return images.square().mean((1, 2, 3), keepdim=True).sqrt()
