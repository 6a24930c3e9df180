"""Several processes: one that is killed, hangs or has no memory ends the run, and is named."""

import os
import signal
import time

import pytest
import torch

from lgmnet.ranks import came_from_exchange
from lgmnet.training import gradients
from tests.commands import ranks, write_config

# Seconds beyond training.timeout in which everything has to be over, on a busy machine.
MORE = 60.0


def in_step(number, what):
    """Do something in a step, once training has begun."""
    original, calls = gradients.backward, []

    def changed(*arguments):
        calls.append(1)
        if len(calls) == number:
            what()
        return original(*arguments)

    gradients.backward = changed


def die():
    in_step(5, lambda: os.kill(os.getpid(), signal.SIGKILL))


def hang():
    in_step(5, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def exhaust():
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    in_step(5, full)


KILLED = die, "has ended without a word, as one that was killed"
HANGS = hang, "has not answered for 0.05 minutes (training.timeout)"
FULL = exhaust, "has ended: CUDA out of memory"


@pytest.mark.parametrize(
    ("accident", "said", "victim"),
    [
        (*KILLED, 1),
        (*HANGS, 1),
        (*FULL, 0),
        pytest.param(*KILLED, 0, marks=pytest.mark.long),
        pytest.param(*HANGS, 0, marks=pytest.mark.long),
        pytest.param(*FULL, 1, marks=pytest.mark.long),
    ],
)
def test_a_lost_process_ends_the_run_and_is_named(tmp_path, accident, said, victim):
    config = write_config(tmp_path, {"training": {"timeout": 0.05, "validate_every": 0}})
    arguments = [config, "--device", "cpu", "--output", tmp_path / "run"]
    before = [accident if rank == victim else None for rank in (0, 1)]
    with ranks(arguments, tmp_path / "out", before=before) as commands:
        assert commands[1 - victim].wait(3 + MORE) == 1
        if accident is exhaust:
            assert commands[victim].wait() == 1
            assert "training.batch_size" in commands[victim].text()
    text, pid = commands[1 - victim].text(), commands[victim].process.pid
    assert "Traceback" not in text
    assert f"train.py: process {victim} of 2 (" in text
    assert f"process id {pid}) {said}" in text
    assert "--resume" in text
    if victim == 1:  # the main process has saved the steps before
        assert torch.load(tmp_path / "run" / "last.pt")["step"] >= 2


@pytest.mark.long
def test_a_slow_process_is_waited_for(tmp_path):
    config = write_config(tmp_path, {"training": {"timeout": 0.1, "steps_per_epoch": 6}})
    arguments = [config, "--device", "cpu", "--output", tmp_path / "run"]
    with ranks(arguments, tmp_path / "out", before=[None, slow]) as commands:
        assert [command.wait() for command in commands] == [0, 0]


def slow():
    in_step(3, lambda: time.sleep(2))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (torch.distributed.DistBackendError("NCCL error"), True),
        (torch.distributed.DistBackendError("NCCL: Cuda failure 'out of memory'"), False),
        (torch.OutOfMemoryError("gloo"), False),
        (RuntimeError("shapes differ"), False),
        (ValueError("gloo"), False),
    ],
)
def test_errors_of_the_exchange_are_told_from_own_ones(error, expected):
    assert came_from_exchange(error) is expected
