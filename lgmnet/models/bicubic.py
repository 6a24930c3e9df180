"""Bicubic interpolation, the simplest estimate in super-resolution, for comparison."""

from collections.abc import Iterable

from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork, Watch
from lgmnet.models.watching import FIRST, show
from lgmnet.operators import BlurDown, LinearOperator


@MODELS.register("bicubic")
class Bicubic(UnfoldingNetwork):
    """y, enlarged by the scale of the operator. The blur is not removed.

    It has no trained values and no stages. The pixels that the operator keeps stay where they are.

    Shapes:
        measurement ``(batch, channels, H/s, W/s)`` -> image ``(batch, channels, H, W)``.

    Source:    see `lgmnet.operators.blur_down.interpolation`; no reference code.
    """

    any_channels = True

    def check_operator(self, operator: LinearOperator) -> None:
        if not isinstance(operator, BlurDown):
            raise ValueError(
                f"bicubic needs a scale, which {type(operator).__name__} does not have; choose "
                "sampling.operator=blur_down, or another network"
            )

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        assert isinstance(operator, BlurDown)
        image = operator.bicubic(measurement)
        show(watch, image, FIRST)
        return Reconstruction(image)

    def stages(self) -> Iterable[nn.Module]:
        return ()
