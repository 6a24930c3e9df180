"""What a network costs: parameters, arithmetic, memory; with the conventions stated.

FLOPs follow PyTorch's counter: convolutions and matrix products only, two per
multiply-accumulate (MAC). Φ and Φᵀ are included. Arithmetic and memory are counted on the meta
device: nothing is computed.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    """Of one forward pass; ``activations`` is what training keeps for the backward pass."""

    flops: int
    activations: int
    """Bytes, in the precision of the weights, without recomputation."""

    @property
    def macs(self) -> int:
        return self.flops // 2


def parameters(module: nn.Module, frozen: bool = False) -> int:
    """Number of trained values; with ``frozen`` also of those that are kept as they are."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or frozen)


def cost(model: nn.Module, height: int, width: int, batch: int = 1) -> Cost:
    """Cost of ``model(image)`` for ``(batch, 1, height, width)`` images.

    A tensor that is kept several times counts once; parameters do not count.
    """
    shadow = copy.deepcopy(model).to("meta").train()
    own = {p.untyped_storage()._cdata for p in shadow.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # holding a storage keeps its address taken

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    image = torch.empty(batch, 1, height, width, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        shadow(image)
    return Cost(counter.get_total_flops(), sum(s.nbytes() for s in kept.values()))
