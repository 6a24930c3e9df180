"""Back projection, the simplest estimate, for comparison with other methods."""

from collections.abc import Iterable

from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork
from lgmnet.operators import LinearOperator


@MODELS.register("back_projection")
class BackProjection(UnfoldingNetwork):
    """x̂ = Φᵀy. In MRI it is called zero filling: frequencies without a measurement are zero.

    It has no trained values and no stages.

    Shapes:
        measurement of the operator -> image ``(batch, channels, H, W)``.

    Source:    textbooks; no reference code.
    """

    any_channels = True
    reach = 0

    def forward(self, measurement: Tensor, operator: LinearOperator) -> Reconstruction:
        return Reconstruction(operator.adjoint(measurement))

    def stages(self) -> Iterable[nn.Module]:
        return ()
