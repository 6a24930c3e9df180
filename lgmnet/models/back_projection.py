"""Back projection, the simplest estimate of all: a row to compare other methods with."""

from collections.abc import Iterable

from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork
from lgmnet.operators import LinearOperator


@MODELS.register("back_projection")
class BackProjection(UnfoldingNetwork):
    """x̂ = Φᵀy. In MRI it is called zero filling: what was not measured is taken as zero.

    It has nothing to train and no stages.

    Shapes:
        measurement as the operator has it -> image ``(batch, channels, H, W)``.

    Source:    textbooks; no reference code.
    """

    any_channels = True
    reach = 0

    def forward(self, measurement: Tensor, operator: LinearOperator) -> Reconstruction:
        return Reconstruction(operator.adjoint(measurement))

    def stages(self) -> Iterable[nn.Module]:
        return ()
