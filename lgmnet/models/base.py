"""The contract of a network, and what it returns."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor, nn

from lgmnet.operators import LinearOperator
from lgmnet.registry import Registry


class Reconstruction(NamedTuple):
    """What a network makes of a measurement.

    image: ``(batch, 1, H, W)``, in the unit of the measured image, not clipped.
    penalties: scalar terms that the network adds to the loss, by name, already weighted.
    """

    image: Tensor
    penalties: Mapping[str, Tensor] = MappingProxyType({})


class UnfoldingNetwork(nn.Module, ABC):
    """K unfolded iterations: ``(measurement, operator) -> Reconstruction``."""

    @abstractmethod
    def forward(self, measurement: Tensor, operator: LinearOperator) -> Reconstruction:
        """Rebuild the image that ``operator`` measured as ``measurement``."""

    @abstractmethod
    def stages(self) -> Iterable[nn.Module]:
        """The iterations, first to last: what training may recompute to save memory."""


MODELS: Registry[UnfoldingNetwork] = Registry("model")
