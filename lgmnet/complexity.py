"""Cost of a network: parameters, arithmetic, memory and time, with the counting conventions.

FLOPs follow PyTorch's counter: convolutions and matrix products only, two per
multiply-accumulate (MAC). Φ and Φᵀ are included. Arithmetic and memory are counted on the meta
device: nothing is computed.

Times are compared only if they were measured in turn, in one process: `interleave`. On a CPU with
one thread the clock is process time, which other programs do not change.
"""

import copy
import math
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    """Cost of one forward pass."""

    flops: int
    """In evaluation mode, without the penalties of the network."""
    training_flops: int
    """In training mode, with the penalties of the network."""
    activations: int
    """Bytes that training keeps for the backward pass, in the precision of the weights, without
    recomputation."""

    @property
    def macs(self) -> int:
        return self.flops // 2


def parameters(module: nn.Module, frozen: bool = False) -> int:
    """Number of trained values; with ``frozen`` including frozen ones."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or frozen)


def cost(model: nn.Module, height: int, width: int, batch: int = 1, channels: int = 1) -> Cost:
    """Cost of ``model(image)`` for ``(batch, channels, height, width)`` images.

    A tensor that is kept several times counts once. Parameters do not count.
    """
    shadow = copy.deepcopy(model).to("meta")
    own = {p.untyped_storage()._cdata for p in shadow.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # a kept storage keeps its address

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    image = torch.empty(batch, channels, height, width, device="meta")
    used, trained = counter(), counter()
    with used, torch.no_grad():
        shadow.eval()(image)
    with trained, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        shadow.train()(image)
    activations = sum(storage.nbytes() for storage in kept.values())
    return Cost(used.get_total_flops(), trained.get_total_flops(), activations)


def counter() -> FlopCounterMode:
    """PyTorch's counter, with Fourier transforms, for which it counts 0 by default."""
    fft = torch.ops.aten
    transforms = {fft._fft_c2c: _complex_fft, fft._fft_r2c: _real_fft, fft._fft_c2r: _to_real_fft}
    return FlopCounterMode(display=False, custom_mapping=transforms)


Shape = Sequence[int]


def _complex_fft(shape: Shape, axes: list[int], *_: object, **__: object) -> int:
    """5 N log₂ N for each transform of N points."""
    return round(5 * math.prod(shape) * math.log2(math.prod(shape[axis] for axis in axes)))


def _real_fft(shape: Shape, axes: list[int], *_: object, **__: object) -> int:
    return _complex_fft(shape, axes) // 2


def _to_real_fft(shape: Shape, axes: list[int], *_: object, out_shape: Shape, **__: object) -> int:
    return _complex_fft(out_shape, axes) // 2


def clock(device: torch.device) -> Callable[[], float]:
    """A clock in seconds: process time on a CPU with one thread, else synchronised wall time."""
    if device.type == "cuda":

        def synchronised() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return synchronised
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def interleave(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    read: Callable[[], float],
    warmup: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each run, measured in turn in ``rounds`` rounds after the warm-up rounds.

    Args:
        read: the clock; see `clock`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(warmup + rounds):
        for name, run in runs.items():
            start = read()
            run()
            if k >= warmup:
                seconds[name].append(read() - start)
    return seconds


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-percent * len(ordered) // 100) - 1)]


class Ratio(NamedTuple):
    """Speed ratio over the rounds: median, smallest, largest."""

    median: float
    low: float
    high: float


def speedup(reference: Sequence[float], seconds: Sequence[float]) -> Ratio:
    """Speed ratio of ``seconds`` to ``reference``, both from one `interleave`."""
    ratios = [r / s for r, s in zip(reference, seconds, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


class Memory(NamedTuple):
    """Bytes of tensors that a run adds: the peak, and the bytes that its result keeps."""

    peak: int
    kept: int


def memory(run: Callable[[], object], device: torch.device) -> Memory:
    """Memory that one call of ``run`` takes; on a CPU without the buffers of libraries."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        peak, after = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
        del result
        return Memory(peak - before, after - before)
    with LiveBytes() as live:
        result = run()
        kept = live.now
    del result
    return Memory(live.peak, kept)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors created inside this context, and their peak."""

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
    """The strided tensors among ``values``; other layouts have no storage to count."""
    leaves = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.layout == torch.strided]
