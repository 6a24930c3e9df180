"""train.py in processes of its own, at the price of a fork: to be killed, stopped and watched.

A server that has imported everything, and computed nothing, forks a process per start.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.utils.tensorboard
import yaml
from safetensors.numpy import load_file

import train
from lgmnet.console import outlive_console
from lgmnet.weights import saved
from tests.conftest import smooth_image

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__])
# Longer than any of the small runs takes, on a machine that does other things too.
PATIENCE = 120.0


class Command:
    """One process that runs train.py; what it prints goes to a file.

    Args:
        kill_at: it ends itself by SIGKILL when it is about to make so many writes (0: never).
        before: called in the new process, to change what is tested.
    """

    def __init__(self, arguments: Sequence, output: Path, environment: Mapping[str, str] = {},
                 kill_at: int = 0, before=None) -> None:  # fmt: skip
        self.output = output
        texts = [str(argument) for argument in arguments]
        self.process = SERVER.Process(
            target=_run, args=(texts, output, dict(environment), kill_at, before)
        )
        self.process.start()

    def kill_after(self, seconds: float) -> bool:
        """SIGKILL after some seconds; False if the process has ended before."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"it hangs; it has printed {self.text()}")
        return self.process.exitcode

    def wait_for(self, text: str, seconds: float = PATIENCE) -> None:
        """Until it has printed a text."""
        end = time.monotonic() + seconds
        while text not in self.text():
            assert self.process.is_alive(), self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.02)

    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""


def _run(arguments, output, environment, kill_at, before) -> None:
    os.environ.update(environment)
    with output.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.argv = ["train.py", *arguments]
        outlive_console()
        if kill_at:
            _die_at_write(kill_at)
        if before is not None:
            before()
        code = 1
        with contextlib.suppress(SystemExit):
            try:
                code = train.main()
            finally:
                sys.stdout.flush()
    sys.exit(code)


def _die_at_write(number: int) -> None:
    """End the process before the given one of its writes: half a file, a whole one without its
    name, a name that is not on the disk yet."""
    left = [number]

    def counted(call):
        def counting(*arguments, **options):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counting

    os.replace, os.fsync = counted(os.replace), counted(os.fsync)
    torch.save = counted(torch.save)
    saved.save_file = counted(saved.save_file)


@contextlib.contextmanager
def ranks(arguments: Sequence, folder: Path, count: int = 2, **options) -> Iterator[list[Command]]:
    """The processes of one run, as torchrun starts them: the launcher holds their store."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(count),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    commands = [
        Command(
            arguments,
            folder / f"rank{rank}.txt",
            {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            **{name: values[rank] for name, values in options.items()},
        )
        for rank in range(count)
    ]
    try:
        yield commands
    finally:
        for command in commands:
            command.kill_after(0)


def write_config(folder: Path, tree: Mapping) -> Path:
    """A config of a tiny run of twelve steps that saves a state every second one."""
    import cv2

    for kind, count in (("images", 3), ("held", 1)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            cv2.imwrite(str(folder / kind / f"{k}.png"), smooth_image(64, 80, k + 7 * count))
    base = {
        "model": {"name": "lgm_net", "D": 1, "dim": 2, "dimf": 2, "scales": 2},
        "sampling": {"ratio": 0.1},
        "data": {
            "train": [str(folder / "images")], "validation": str(folder / "held"),
            "crop_size": 32, "source": "device", "workers": 0,
        },
        "training": {
            "epochs": 1, "steps_per_epoch": 12, "batch_size": 4, "rate": 1e-3, "log_every": 2,
            "validate_every": 2, "ema": 0.9, "schedule": "cosine", "timeout": 1.0,
        },
        "evaluation": {"datasets": []},
    }  # fmt: skip
    for section, values in tree.items():
        whole = {} if section == "model" else base.get(section, {})
        base[section] = {**whole, **values}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(base))
    return path


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of all weights of a run, by file and name."""
    return {
        f"{path.relative_to(folder)} {name}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }
