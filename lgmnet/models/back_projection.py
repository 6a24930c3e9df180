"""Back projection, the simplest estimate, for comparison with other methods."""

from collections.abc import Iterable

from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork, Watch
from lgmnet.operators import LinearOperator
from lgmnet.operators.parallel_beam import WINDOWS, require_beam
from lgmnet.registry import require_choice


@MODELS.register("back_projection")
class BackProjection(UnfoldingNetwork):
    """x̂ = Φᵀy. In MRI it is called zero filling: frequencies without a measurement are zero.

    It has no trained values and no stages.

    Args:
        window: ``ramp`` or ``hann`` for tomography: filtered back projection in place of Φᵀy, see
            `ParallelBeam.fbp`.

    Shapes:
        measurement of the operator -> image ``(batch, channels, H, W)``.

    Source:    textbooks; no reference code.
    """

    any_channels = True
    reach = 0

    def __init__(self, window: str | None = None) -> None:
        super().__init__()
        if window is not None:
            require_choice("window", window, WINDOWS)
        self.window = window

    def check_operator(self, operator: LinearOperator) -> None:
        if self.window is not None:
            require_beam(f"window '{self.window}'", operator)

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        if self.window is not None:
            beam = require_beam(f"window '{self.window}'", operator)
            return Reconstruction(beam.fbp(measurement, self.window))
        return Reconstruction(operator.adjoint(measurement))

    def stages(self) -> Iterable[nn.Module]:
        return ()
