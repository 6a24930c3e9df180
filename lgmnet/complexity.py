"""What a network costs: parameters, arithmetic, memory; with the conventions stated.

FLOPs follow PyTorch's counter: convolutions and matrix products only, two per
multiply-accumulate (MAC). Φ and Φᵀ are included. Arithmetic and memory are counted on the meta
device: nothing is computed.
"""

import copy
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    """Of one forward pass; ``activations`` is what training keeps for the backward pass."""

    flops: int
    activations: int
    """Bytes, in the precision of the weights, without recomputation."""

    @property
    def macs(self) -> int:
        return self.flops // 2


def parameters(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


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


def peak_bytes(function: Callable[[], object]) -> int:
    """Bytes of the tensors that ``function`` makes, at their most; libraries' own not counted."""
    with LiveBytes() as live:
        function()
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside this context, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        inputs = {id(a.untyped_storage()) for a in strided(arguments)}
        result = operation(*arguments, **(options or {}))
        for tensor in strided(result):
            storage = tensor.untyped_storage()
            if id(storage) not in inputs and storage not in self.known:
                self.add(storage)
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.known.add(storage)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.remove, size)

    def remove(self, size: int) -> None:
        self.now -= size


def strided(values: Any) -> list[Tensor]:
    """The tensors among ``values``; those in a layout of a library have no storage to count."""
    leaves = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.layout == torch.strided]
