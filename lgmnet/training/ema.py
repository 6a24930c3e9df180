"""The weight average, which is validated and saved as best."""

import copy

import torch
from torch import Tensor

from lgmnet.models import SensingModel

# Tensors of the average, and the corresponding tensors of the model.
Pairs = tuple[list[Tensor], list[Tensor]]


class WeightAverage:
    """Exponential average of all parameters of a model, Φ among them.

    After the first step the average equals the model. Then the decay grows as
    (1 + step) / (10 + step) to its final value, so that the first weights do not dominate the
    average of a short run. Buffers, such as the statistics of batch normalisation, are copied.

    Args:
        model: already on its device and in its memory format. The average has its own modules,
            which are not compiled.
        decay: final decay of the average, per step.
    """

    def __init__(self, model: SensingModel, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False)
        # Kept, because collecting the tensors takes longer than averaging them.
        self._source = model
        self._parameters: Pairs = list(self.model.parameters()), list(model.parameters())
        self._buffers: Pairs = list(self.model.buffers()), list(model.buffers())

    @torch.no_grad()
    def update(self, model: SensingModel, step: int) -> None:
        """Update the average after step number ``step`` of ``model``."""
        assert model is self._source, "this is the average of another model"
        decay = min(self.decay, (1 + step) / (10 + step)) if step > 1 else 0.0
        torch._foreach_lerp_(*self._parameters, 1 - decay)
        if self._buffers[0]:
            torch._foreach_copy_(*self._buffers)

    def state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a state. It may be from an older version (PyTorch's ``AveragedModel``)."""
        if "n_averaged" in state:
            own = ((key, value) for key, value in state.items() if key != "n_averaged")
            state = {key.removeprefix("module."): value for key, value in own}
        self.model.load_state_dict(state)
