"""Device, precision, processes, signals: the only reader of the environment."""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lgmnet.models import UnfoldingNetwork

PROJECT = Path(__file__).resolve().parents[2]


def data_roots() -> list[Path]:
    """Where data sets are sought by name: ``data/``, then the folder LGMNET_DATA names."""
    roots = [Path("data")]
    if os.environ.get("LGMNET_DATA"):
        roots.append(Path(os.environ["LGMNET_DATA"]))
    return roots


def checkpoint_roots() -> list[Path]:
    """Where weights are sought by name: here, then beside the package."""
    return [Path("checkpoints"), PROJECT / "checkpoints"]


@dataclass(frozen=True)
class Runtime:
    """Where this process runs, among how many."""

    device: torch.device
    rank: int = 0
    processes: int = 1

    @property
    def is_main(self) -> bool:
        """One process logs, validates and saves."""
        return self.rank == 0

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read next is true."""
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

    def any_process(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.processes == 1:
            return flag
        tensor = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return bool(tensor.item())


@contextmanager
def start(device: str = "auto") -> Iterator[Runtime]:
    """The runtime of this process; joins the others when torchrun started it.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        yield Runtime(torch.device(device))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Runtime(torch.device(device), rank, processes)
    finally:
        torch.distributed.destroy_process_group()


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 for what tolerates it; Φ and Φᵀ stay in float32 (see LinearOperator)."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def recompute_stages(network: UnfoldingNetwork) -> None:
    """Let the backward pass recompute every iteration instead of keeping its activations."""
    for stage in network.stages():
        stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)


def use_channels_last(module: nn.Module) -> None:
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class StopSignal:
    """SIGINT and SIGTERM as a flag, so that a run can end between two steps."""

    def __init__(self) -> None:
        self.received = 0

    def __enter__(self) -> "StopSignal":
        self._previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
