"""What a network costs: parameters, arithmetic, memory, time; with the conventions stated.

FLOPs follow PyTorch's counter: convolutions and matrix products only, two per
multiply-accumulate (MAC). Φ and Φᵀ are included. Arithmetic and memory are counted on the meta
device: nothing is computed.

Times are only compared when they were taken in turn, in one process: `interleave`. On a CPU with
one thread the clock is the process's own time, which other programs do not lengthen.
"""

import copy
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry


class Cost(NamedTuple):
    """Of one forward pass."""

    flops: int
    """In evaluation mode: without what only a loss needs."""
    training_flops: int
    """In training mode, with the penalties of the network."""
    activations: int
    """Bytes that training keeps for the backward pass, in the precision of the weights, without
    recomputation."""

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
    shadow = copy.deepcopy(model).to("meta")
    own = {p.untyped_storage()._cdata for p in shadow.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # holding a storage keeps its address taken

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    image = torch.empty(batch, 1, height, width, device="meta")
    used, trained = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with used, torch.no_grad():
        shadow.eval()(image)
    with trained, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        shadow.train()(image)
    activations = sum(storage.nbytes() for storage in kept.values())
    return Cost(used.get_total_flops(), trained.get_total_flops(), activations)


class Work(NamedTuple):
    """Arithmetic, and the bytes that the operations read and write if nothing stays in a cache."""

    flops: int = 0
    bytes: int = 0


class _Counter(TorchDispatchMode):
    """Adds up the work of every operation under the current ``part``."""

    def __init__(self) -> None:
        super().__init__()
        self.part = "rest"
        self.work: dict[str, Work] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=result) if count else 0
            touched = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            before = self.work.get(self.part, Work())
            size = sum(t.numel() * t.element_size() for t in touched)
            self.work[self.part] = Work(before.flops + flops, before.bytes + size)
        return result


@contextmanager
def by_scale(
    stages: Iterable[nn.Module], height: int, enter: Callable[[str], None]
) -> Iterator[None]:
    """Call ``enter`` with the scale of every stage that runs, such as ``1/2``, else ``rest``.

    Args:
        height: of the image; the scale of a stage is that of its first input.
    """

    def begin(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        factor = round(height / inputs[0].shape[2])
        enter(f"1/{factor}" if factor > 1 else "1")

    hooks = []
    for stage in set(stages):
        hooks.append(stage.register_forward_pre_hook(begin))
        hooks.append(stage.register_forward_hook(lambda *_: enter("rest")))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def work_by_scale(
    model: nn.Module, stages: str, height: int, width: int, batch: int = 1
) -> dict[str, Work]:
    """Work of one forward pass of ``(batch, 1, height, width)`` images, by scale of the stages.

    Args:
        stages: name of the submodule whose ``stages()`` are the iterations.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    counter = _Counter()
    image = torch.empty(batch, 1, height, width, device="meta")
    listed = shadow.get_submodule(stages).stages()  # type: ignore[operator]

    def enter(part: str) -> None:
        counter.part = part

    with by_scale(listed, height, enter), torch.no_grad(), counter:
        shadow(image)
    return counter.work


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds: of this process on a CPU with one thread, else of the wall, synchronised."""
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
    """Seconds of each run, taken in turn in ``rounds`` rounds, after some that do not count.

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
    """How many times as fast, round by round: median, smallest, largest."""

    median: float
    low: float
    high: float


def speedup(reference: Sequence[float], seconds: Sequence[float]) -> Ratio:
    """Of ``seconds`` against ``reference``, both from one `interleave`."""
    ratios = [r / s for r, s in zip(reference, seconds, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


class Memory(NamedTuple):
    """Bytes of tensors beyond those before a run: most at once, and left with its result."""

    peak: int
    kept: int


def memory(run: Callable[[], object], device: torch.device) -> Memory:
    """Memory that one call of ``run`` takes; on a CPU without the libraries' own buffers."""
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


class Limits(NamedTuple):
    """What a device reaches: FLOP/s of large matrix products, bytes/s of a large copy."""

    fp32: float
    bf16: float
    bandwidth: float


def limits(device: torch.device, side: int = 2048, rounds: int = 5) -> Limits:
    """Measured here and now: square products of ``side``; a copy of 64 MiB, read and written.

    A product that takes longer than a second, as of bf16 without the arithmetic, is a smaller one.
    """
    read = clock(device)
    runs: dict[str, Callable[[], object]] = {}
    sides = []
    for kind in (torch.float32, torch.bfloat16):
        product, chosen = _largest_product(kind, device, side, read)
        runs[str(kind)] = product
        sides.append(chosen)
    source = torch.zeros(2**24, device=device)
    target = torch.empty_like(source)
    runs["copy"] = lambda: target.copy_(source)
    fp32, bf16, copied = (min(s) for s in interleave(runs, rounds, read).values())
    flops = [2 * chosen**3 for chosen in sides]
    return Limits(flops[0] / fp32, flops[1] / bf16, 2 * source.nbytes / copied)


def _largest_product(
    kind: torch.dtype, device: torch.device, side: int, read: Callable[[], float]
) -> tuple[Callable[[], object], int]:
    """A square product of ``side``, or of the last half of it that takes less than a second."""
    chosen = min(side, 128)
    while True:
        matrix = torch.randn(chosen, chosen, device=device).to(kind)
        start = read()
        torch.mm(matrix, matrix)
        # Twice the side is eight times the arithmetic.
        if 2 * chosen > side or 8 * (read() - start) > 1:
            return partial(torch.mm, matrix, matrix), chosen
        chosen *= 2


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
