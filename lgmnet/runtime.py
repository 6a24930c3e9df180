"""Device, precision, processes, signals: the only reader of the environment."""

import gc
import os
import platform
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from types import FrameType
from typing import TextIO, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lgmnet.data.crops import STOP_SIGNALS, generator
from lgmnet.data.images import printable
from lgmnet.models import UnfoldingNetwork
from lgmnet.project import checkpoint_roots as checkpoint_roots
from lgmnet.ranks import RollCall

T = TypeVar("T")

# Crops, flips, blocks and ratios are drawn from other streams.
STREAM = 6

# A process that waits more minutes than this for another ends the run; see training.timeout.
TIMEOUT = 30.0
# Steps after which a GPU run reads the values of its processes. By then it need not wait for them.
LAG = 2
# Seconds in which a second Ctrl-C is taken for an echo of the first.
REPEATED = 0.5
STOPPING = b"\nstopping after this step; press Ctrl-C again to stop at once\n"


def data_roots() -> list[Path]:
    """Folders in which data sets are searched by name: ``data/``, then LGMNET_DATA."""
    roots = [Path("data")]
    if os.environ.get("LGMNET_DATA"):
        roots.append(Path(os.environ["LGMNET_DATA"]))
    return roots


@dataclass(frozen=True)
class Runtime:
    """Device, rank and number of processes of this process."""

    device: torch.device
    rank: int = 0
    processes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which logs, validates and saves."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print, in one process."""
        if self.is_main:
            print(text)

    def synchronise(self) -> None:
        """Wait for the device, so that times are correct."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_memory(self) -> float:
        """Largest memory in use so far: of the GPU's tensors, or of this process; in MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    def agree(self, value: float) -> float:
        """The main process's value, in every process."""
        if self.processes == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(tensor, 0)
        return float(tensor.item())

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all processes, entry by entry."""
        if self.processes > 1:
            torch.distributed.all_reduce(values)
        return values / self.processes

    def gather(self, items: list[T]) -> list[T]:
        """All items in their original order, after every process handled its share."""
        if self.processes == 1:
            return items
        shares: list[list[T]] = [[] for _ in range(self.processes)]
        torch.distributed.all_gather_object(shares, items)
        turns = zip_longest(*shares, fillvalue=None)
        return [item for turn in turns for item in turn if item is not None]

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers, in every process."""
        if self.processes == 1:
            return number
        tensor = torch.tensor([number], device=self.device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return int(tensor.item())


class Consensus:
    """After every step: the largest signal of all processes, and the seconds of the main process.

    All processes get the same values at the same step, so they stop together and have the same
    learning rate. No process waits for the GPU: on a GPU the values are `LAG` steps old.
    """

    def __init__(self, here: Runtime, seconds: float) -> None:
        self.here = here
        self.latest = 0, seconds
        self._asked: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def __call__(self, signal: int, seconds: float) -> tuple[int, float]:
        """Called by every process after each step, with its own numbers."""
        here = self.here
        if here.processes == 1:
            return signal, seconds
        on_gpu = here.device.type == "cuda"
        own = torch.tensor([signal, seconds if here.is_main else -1.0], dtype=torch.float64)
        shared = own.pin_memory().to(here.device, non_blocking=True) if on_gpu else own
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        answer = torch.empty_like(own, pin_memory=on_gpu).copy_(shared, non_blocking=True)
        self._asked.append((answer, torch.cuda.current_stream().record_event() if on_gpu else None))
        if len(self._asked) > LAG * on_gpu:
            answer, arrived = self._asked.popleft()
            if arrived is not None:
                arrived.synchronize()
            largest, seconds = answer.tolist()
            self.latest = int(largest), seconds
        return self.latest


@contextmanager
def start(device: str = "auto", minutes: float = TIMEOUT) -> Iterator[Runtime]:
    """The runtime of this process; joins the others when torchrun started it.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        minutes: how long a process waits for another.

    Raises:
        ProcessLost: another process has ended, or does not answer.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    if processes > 1 and device.startswith("cuda:"):
        raise ValueError(
            f"--device {device} would put {processes} processes on one GPU; under torchrun leave "
            "it out, and choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    if device == "cuda":
        device = f"cuda:{local}"
    check_device(device)
    # fp32 means fp32: TF32 would round Φx to ten bits.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    here = Runtime(torch.device(device), rank, processes)
    if here.device.type == "cuda":
        torch.cuda.set_device(here.device)
    if processes == 1:
        yield here
        return
    wait = timedelta(minutes=minutes)
    if here.device.type == "cuda":
        torch.distributed.init_process_group("nccl", timeout=wait, device_id=here.device)
    else:
        torch.distributed.init_process_group("gloo", timeout=wait)
    store = torch.distributed.distributed_c10d._get_default_store()
    call = RollCall(store, rank, processes, minutes)
    try:
        yield here
        gc.collect()
        torch.distributed.barrier()  # nobody leaves while another still saves
    except Exception as error:
        call.failed(error)
        raise
    finally:
        torch.distributed.destroy_process_group()


def check_device(name: str) -> None:
    """Raise ValueError unless PyTorch can use the device here."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device is '{name}', expected auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--device {name}: PyTorch sees {torch.cuda.device_count()} GPUs here; use --device cpu"
        )


def describe(device: torch.device) -> str:
    """A device with its name: ``cpu (AMD EPYC, 1 thread)``, ``cuda:0 (NVIDIA H100, 79 GiB)``."""
    if device.type != "cuda":
        threads = torch.get_num_threads()
        return f"cpu ({processor()}, {threads} thread{'s' if threads > 1 else ''})"
    index = torch.cuda.current_device() if device.index is None else device.index
    found = torch.cuda.get_device_properties(index)
    return f"cuda:{index} ({found.name}, {found.total_memory / 2**30:.0f} GiB)"


def processor() -> str:
    """Name of the CPU, as far as Linux tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def announce(here: Runtime, stream: TextIO) -> None:
    """Say in one line on which device a command runs; the main process speaks for all."""
    if here.is_main:
        others = f", {here.processes} processes" if here.processes > 1 else ""
        print(f"device: {describe(here.device)}{others}", file=stream, flush=True)


def seed_step(seed: int, step: int, here: Runtime) -> None:
    """Seed the random numbers of a step by seed, step and process.

    No random state has to be saved, and a resumed run draws the same numbers.
    """
    number = step * here.processes + here.rank
    # Use a generator, because the CPU generator uses only the lowest 32 bits of the seed.
    torch.manual_seed(int(generator(seed, number, STREAM).integers(2**63)))


def recompute_stages(network: UnfoldingNetwork) -> None:
    """Recompute every stage in the backward pass instead of keeping its activations.

    Composite modules between the stages, such as a change of scale, are recomputed too.
    """
    inside = {getattr(network, name) for name in network.inside_stages}
    for module in _recomputed(network, set(network.stages())):
        if module in inside:
            continue
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def _recomputed(module: nn.Module, stages: set[nn.Module]) -> Iterator[nn.Module]:
    for child in module.children():
        holds_stage = not stages.isdisjoint(child.modules())
        if child in stages or not (holds_stage or isinstance(child, nn.ModuleList)):
            if any(True for _ in child.children()):  # a single layer keeps only its input anyway
                yield child
        else:
            yield from _recomputed(child, stages)


def compilation_failed(error: BaseException) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    return isinstance(error, TorchDynamoException)


def undo_compilation(module: nn.Module) -> None:
    """Undo `nn.Module.compile`."""
    module._compiled_call_impl = None


def device_of(module: nn.Module) -> torch.device:
    """Where a module's tensors are; the CPU if it has none."""
    tensors = chain(module.parameters(), module.buffers())
    return next(tensors, torch.empty(0)).device


@contextmanager
def without_compilation(module: nn.Module) -> Iterator[None]:
    """Run the module uncompiled, because each new image size would be compiled again."""
    compiled = module._compiled_call_impl
    undo_compilation(module)
    try:
        yield
    finally:
        module._compiled_call_impl = compiled


def use_channels_last(module: nn.Module) -> None:
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextmanager
def exclusive(folder: Path, here: Runtime) -> Iterator[None]:
    """Lock ``folder`` against other training processes until this process ends.

    An empty folder is removed afterwards.

    Raises:
        ValueError: another process trains there, or weights could not be written there.
    """
    if printable(folder) != str(folder):
        raise ValueError(
            f"the name of the run folder {printable(folder)} is not UTF-8, which weights need; "
            "choose another with --output"
        )
    if not here.is_main:
        yield
        return
    import fcntl  # not on Windows

    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is training in {folder}; wait for its end, or choose another "
                "folder with --output"
            ) from None
        except OSError as error:  # some file systems of clusters know no locks
            print(f"{folder} cannot be locked ({error}): start no second run there")
        # Loader processes would hold the lock for seconds after this process was killed.
        os.register_at_fork(after_in_child=file.close)
        try:
            yield
        finally:
            if list(folder.iterdir()) == [lock]:
                shutil.rmtree(folder)


class StopSignal:
    """Signals that ask for an end as a flag, so that a run can end between two steps.

    SIGINT is Ctrl-C, SIGTERM what systems send before SIGKILL, SIGHUP a closed terminal (nohup
    lets a process ignore it, and so it stays), SIGUSR1 the warning of SLURM and other queues.
    A second Ctrl-C raises KeyboardInterrupt at once. torchrun repeats the first one; a repetition
    within `REPEATED` seconds is the same.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0

    def __enter__(self) -> "StopSignal":
        # A shell lets its background jobs ignore SIGINT; here kill -INT saves them all the same.
        ignored = {s for s in STOP_SIGNALS if signal.getsignal(s) is signal.SIG_IGN}
        heard = [s for s in STOP_SIGNALS if s not in ignored or s.name != "SIGHUP"]
        self._previous = {s: signal.signal(s, self._note) for s in heard}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT == self.received and now - self._since > REPEATED:
            raise KeyboardInterrupt
        if number == signal.SIGINT and not self.received:
            os.write(2, STOPPING)  # a print could meet one that was interrupted
        if not self.received:
            self._since = now
        self.received = number
