"""GAP-Net: projections on the measurement, and one U-Net per stage."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork, Watch
from lgmnet.models.denoisers import complete, double_conv
from lgmnet.models.watching import FIRST, show, stage_name
from lgmnet.operators import LinearOperator
from lgmnet.unfolding.blocks import conv1x1
from lgmnet.unfolding.checks import require_positive


class TanhUNet(nn.Module):
    """A U-Net with transposed convolutions; tanh limits the residual that it adds to the image.

    The three scales have 1, 2 and 4 times ``width`` channels.

    Shapes:
        image ``(batch, channels, H, W)`` in and out. Sides of any length are padded by reflection.
    """

    def __init__(self, channels: int = 28, width: int = 32) -> None:
        super().__init__()
        sizes = (width, 2 * width, 4 * width)
        self.encoder = nn.ModuleList(
            double_conv(a, b) for a, b in zip((channels, *sizes), sizes, strict=False)
        )
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(c, c // 2, 2, stride=2) for c in (sizes[2], sizes[1])
        )
        self.decoder = nn.ModuleList(double_conv(c, c // 2) for c in (sizes[2], sizes[1]))
        self.last = conv1x1(width, channels)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        full = self.encoder[0](complete(image, 4))
        half = self.encoder[1](F.max_pool2d(full, 2))
        features = self.encoder[2](F.max_pool2d(half, 2))
        for upsample, decoder, skip in zip(self.upsample, self.decoder, (half, full), strict=True):
            features = decoder(torch.cat([skip, F.relu(upsample(features))], dim=1))
        return image + torch.tanh(self.last(features))[..., :height, :width]


@MODELS.register("gap_net")
class GAPNet(UnfoldingNetwork):
    """Generalised alternating projection with a learned denoiser in every stage.

    A stage takes the closest image that Φ measures as y, and denoises it. All channels of an image
    are denoised together.

    Args:
        stages: K, each with its own U-Net.
        width: channels of a U-Net at full resolution.
        image_channels: c, from the operator.

    Shapes:
        measurement as the operator has it -> image ``(batch, c, H, W)``.

    Paper:     Z. Meng, S. Jalali and X. Yuan, GAP-net, 2020, arXiv:2012.08364.
    Differences from the original: they use the plain projection; so does this, but the image is
    padded by reflection. The ReLU after the transposed convolutions is our reading of the
    description. The number of parameters, 4,271,580, is that of the public code.
    """

    def __init__(self, stages: int = 9, width: int = 32, image_channels: int = 1) -> None:
        super().__init__()
        require_positive(stages=stages, width=width)
        self.denoisers = nn.ModuleList(TanhUNet(image_channels, width) for _ in range(stages))

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        image = operator.adjoint(measurement)
        show(watch, image, FIRST)
        for k, denoiser in enumerate(self.denoisers):
            image = denoiser(operator.project(image, measurement))
            show(watch, image, stage_name(k))
        return Reconstruction(image)

    def stages(self) -> Iterable[nn.Module]:
        return self.denoisers
