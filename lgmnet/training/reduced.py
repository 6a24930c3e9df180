"""bf16 weights that are cast all at once; autocast casts them one by one."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from lgmnet.models import SensingModel

# Layers that autocast runs in bf16.
CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class ReducedWeights:
    """A second model whose layers have bf16 weights. It shares everything else with the first.

    Under autocast both models give the same result to the bit. Autocast launches two casts for each
    layer and two for their gradients: 1,400 of the 3,800 operations of a training step of LGM-Net.
    Here one call casts all weights before the step, and one call casts their gradients after it.

    Args:
        model: the first model, in float32, already on its device and in its memory format.
    """

    def __init__(self, model: SensingModel) -> None:
        self._source = model
        shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
        self.model: SensingModel = copy.deepcopy(model, shared)
        pairs: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
        for layer in self.model.modules():
            for name, full in layer._parameters.items() if type(layer) in CAST else ():
                if full is not None and full.requires_grad:
                    reduced = nn.Parameter(full.detach().bfloat16())
                    layer._parameters[name] = pairs.setdefault(id(full), (full, reduced))[1]
        self._full: list[Tensor] = [full for full, _ in pairs.values()]
        self._reduced: list[Tensor] = [reduced for _, reduced in pairs.values()]
        self._gradients = [torch.empty_like(full) for full in self._full]

    @torch.no_grad()
    def load(self) -> None:
        """Take over the weights and the noise of the first model."""
        self.model.noise_std, self.model.detector = self._source.noise_std, self._source.detector
        for reduced in self._reduced:
            reduced.grad = None
        if self._full:
            torch._foreach_copy_(self._reduced, self._full)

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of a backward pass to those of the first model."""
        new: tuple[list[Tensor], list[Tensor]] = [], []
        more: tuple[list[Tensor], list[Tensor]] = [], []
        for full, reduced, buffer in zip(self._full, self._reduced, self._gradients, strict=True):
            if reduced.grad is not None:
                lists = new if full.grad is None else more
                lists[0].append(buffer)
                lists[1].append(reduced.grad)
                full.grad, reduced.grad = buffer, None
        if new[0]:
            torch._foreach_copy_(*new)
        if more[0]:
            torch._foreach_add_(*more)
