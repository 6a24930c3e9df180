"""Plug-and-play GAP: projections on the measurement, and a denoiser that is trained alone."""

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork, Watch
from lgmnet.models.gap_tv import alternate, root_mean_square
from lgmnet.models.ista_transforms import dct_matrix
from lgmnet.models.lorun import DENOISERS
from lgmnet.operators import LinearOperator
from lgmnet.operators.base import in_full_precision
from lgmnet.registry import require_choice
from lgmnet.unfolding.checks import require_positive


@MODELS.register("pnp_gap")
class PlugAndPlayGAP(UnfoldingNetwork):
    """Generalised alternating projection with one denoiser for all iterations.

    Every iteration takes the closest image that Φ measures as y, and denoises it. The noise level
    that the denoiser is told falls geometrically. Training does not measure: the denoiser learns to
    remove Gaussian noise from the training images. So a training step costs as much as one stage,
    and one denoiser serves every operator of as many channels.

    A narrow denoiser that adds its result to the image cannot remove noise that is independent in
    many channels, because the noise must pass through it. So it works on the first ``coefficients``
    of the cosine transform along the channels. The others are set to zero: smooth spectra have
    none.

    Args:
        iterations: of projection and denoiser.
        denoiser: see `lgmnet.models.lorun.DENOISERS`; the noise level is another channel.
        width: channels of the denoiser at full resolution; 0 selects its default.
        coefficients: of the channels of a pixel; 0: the channels as they are.
        noise: standard deviation that the denoiser is told, first and last; white is 1. It is
            trained for all levels from 0 to the first one.
        accelerated: whether the residuals are added up, see `alternate`.
        brightness: root mean square of the projection of the black image, to which y is scaled, and
            the image is scaled back. So the unit of y does not matter. 0: y is not scaled.
        image_channels: c, from the operator.

    Shapes:
        measurement as the operator has it -> image ``(batch, c, H, W)``.

    Paper:     S. Zheng et al., "Deep plug-and-play priors for spectral snapshot compressive
    imaging", Photonics Research 9(2), 2021.
    Differences from the original: the denoiser, the cosine transform, and the noise levels. There
    the first iterations use total variation.
    """

    basis: Tensor

    def __init__(
        self,
        iterations: int = 100,
        denoiser: str = "unet",
        width: int = 0,
        coefficients: int = 0,
        noise: tuple[float, ...] = (0.5, 0.05),
        accelerated: bool = True,
        brightness: float = 0.0,
        image_channels: int = 1,
    ) -> None:
        super().__init__()
        require_positive(iterations=iterations)
        require_choice("denoiser", denoiser, DENOISERS)
        if len(noise) != 2 or not 0 < noise[1] <= noise[0] < math.inf:
            raise ValueError(
                f"noise is {list(noise)}, expected [first, last] with 0 < last <= first; white is 1"
            )
        if not 0 <= brightness < math.inf:
            raise ValueError(f"brightness is {brightness}, expected at least 0")
        if not 0 <= coefficients <= image_channels:
            raise ValueError(
                f"coefficients is {coefficients}, expected at most the channels of an image, "
                f"{image_channels}, or 0 for the channels as they are"
            )
        count = coefficients or image_channels
        basis = dct_matrix(image_channels)[:count].float() if coefficients else torch.eye(count)
        self.register_buffer("basis", basis, persistent=False)
        sizes = {"width": width} if width else {}
        self.denoiser = DENOISERS[denoiser](inputs=count + 1, outputs=count, **sizes)
        self.noise = (float(noise[0]), float(noise[1]))
        self.iterations = iterations
        self.accelerated = accelerated
        self.brightness = brightness

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        unit = self.unit(measurement, operator) if self.brightness else torch.ones(1, 1, 1, 1)
        unit = unit.to(measurement.device)
        shown = watch and (lambda image, name: watch(image * unit, name))
        steps = [partial(self.denoise, level=level) for level in self.levels()]
        scaled = measurement / unit.reshape(-1, *[1] * (measurement.ndim - 1))
        image = alternate(scaled, operator, steps, self.accelerated, shown)
        return Reconstruction(image * unit)

    def levels(self) -> list[float]:
        """The noise level of every iteration."""
        first, last = (math.log(level) for level in self.noise)
        return torch.linspace(first, last, self.iterations).exp().tolist()

    def unit(self, measurement: Tensor, operator: LinearOperator) -> Tensor:
        """What y is divided by, ``(batch, 1, 1, 1)``; 1 for a black image."""
        black = torch.zeros_like(operator.adjoint(measurement))
        light = root_mean_square(operator.project(black, measurement))
        return torch.where(light > 0, light / self.brightness, 1)

    def denoise(self, image: Tensor, level: Tensor | float) -> Tensor:
        """Remove noise of standard deviation ``level``: a number, or ``(batch, 1, 1, 1)``."""
        features = self._transform(image, self.basis)
        known = torch.ones_like(features[:, :1]) * level
        features = self.denoiser(torch.cat([features, known], dim=1))
        return self._transform(features.to(image.dtype), self.basis.T)

    @in_full_precision
    def _transform(self, image: Tensor, matrix: Tensor) -> Tensor:
        """Multiply the channels of every pixel by a matrix."""
        return torch.einsum("rk,bkhw->brhw", matrix.to(image.dtype), image)

    def learn(self, image: Tensor) -> Reconstruction:
        """See `UnfoldingNetwork.learn`: the denoised image, after noise of a random level."""
        level = self.noise[0] * torch.rand(len(image), 1, 1, 1, device=image.device)
        noisy = image + level.to(image) * torch.randn_like(image)
        return Reconstruction(self.denoise(noisy, level))

    def stages(self) -> Iterable[nn.Module]:
        return (self.denoiser,)
