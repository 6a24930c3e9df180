"""A running average of the weights: what is validated and saved as best."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """Exponential average of all parameters, Φ among them.

    The decay grows from 0.1 to its value as (1 + step) / (10 + step), so that the average of a
    short run is not dominated by its start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weight = 1.0
        self._average = AveragedModel(model, multi_avg_fn=self._mix)

    @property
    def model(self) -> nn.Module:
        return self._average.module

    def update(self, model: nn.Module, step: int) -> None:
        """Move towards ``model`` after its ``step``-th step."""
        self._weight = 1 - min(self.decay, (1 + step) / (10 + step))
        self._average.update_parameters(model)

    def _mix(self, averages: Tensors, values: Tensors, count: object) -> None:
        torch._foreach_lerp_(averages, values, self._weight)

    def state_dict(self) -> dict[str, Tensor]:
        return copy.copy(self._average.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._average.load_state_dict(state)
