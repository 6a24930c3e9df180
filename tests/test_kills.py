"""A run that is killed goes on to the bit: at random moments, and between any two writes."""

import contextlib
import json
import random

import numpy as np
import pytest

from lgmnet.files import TEMPORARY
from tests.commands import PATIENCE, Command, ranks, tensors, write_config

LORUN = {
    "model": {"name": "lorun", "stages": 2, "denoiser": "transformer", "width": 4},
    "lora": {"share": 0.5},
}


class Run:
    """A config, its run that nobody disturbed, and further folders for those that are killed."""

    def __init__(self, folder, tree, processes=1):
        self.folder, self.processes = folder, processes
        self.config = write_config(folder, tree)
        assert self.finish("whole") == 0, self.output("whole")
        self.whole = self.content("whole")

    @contextlib.contextmanager
    def started(self, name, **options):
        folder = self.folder / name
        begun = any(folder.rglob("last.pt")) or any(folder.rglob("last.safetensors"))
        resume = ["--resume"] if begun else []
        arguments = [self.config, "--device", "cpu", "--output", folder, *resume]
        if self.processes == 1:
            yield [Command(arguments, self.folder / f"{name}.txt", **options)]
            return
        first = {key: [value, 0] for key, value in options.items()}  # the main one writes
        with ranks(arguments, self.folder / f"{name}_out", self.processes, **first) as commands:
            yield commands

    def finish(self, name):
        with self.started(name) as commands:
            return max(abs(command.wait()) for command in commands)

    def output(self, name):
        paths = sorted(self.folder.glob(f"{name}*.txt")) + sorted(
            self.folder.glob(f"{name}_out/*.txt")
        )
        return "\n".join(path.read_text() for path in paths)

    def content(self, name):
        return tensors(self.folder / name), logged(self.folder / name)


def logged(folder):
    """The steps of the log, by kind and folder."""
    return {
        str(path.relative_to(folder)): [
            (record["step"], record["kind"])
            for record in map(json.loads, path.read_text().splitlines())
            if record["kind"] in ("train", "validation")
        ]
        for path in sorted(folder.rglob("log.jsonl"))
    }


def kill(run, name, draw):
    """Start a run and kill it, or one of its processes; whether it was still there to be killed."""
    at_write = draw.random() < 0.5
    options = {"kill_at": draw.randrange(1, 60)} if at_write else {}
    with run.started(name, **options) as commands:
        victim = commands[0 if at_write else draw.randrange(len(commands))]
        killed = victim.kill_after(PATIENCE if at_write else draw.uniform(0, 1.5))
        for command in commands:
            if command is not victim and command.wait() and killed:
                assert "process 0" in command.text() or "process 1" in command.text()
    return killed


def killed_runs(run, kills, seed):
    """Runs that are killed up to five times each, until so many kills; all must come out equal."""
    draw, done, number = random.Random(seed), 0, 0
    while done < kills:
        name = f"killed{number}"
        number += 1
        for _ in range(min(draw.randrange(1, 6), kills - done)):
            if not kill(run, name, draw):
                break
            done += 1
        code = run.finish(name)
        assert code == 0 or "nothing to resume" in run.output(name), run.output(name)
        (values, steps), (expected, all_steps) = run.content(name), run.whole
        assert values.keys() == expected.keys()
        for key in expected:
            np.testing.assert_array_equal(values[key], expected[key], err_msg=f"{name} {key}")
        assert steps == all_steps
        assert not [p for p in (run.folder / name).rglob(".*") if TEMPORARY.fullmatch(p.name)]


CASES = {
    "one process": ({}, 1),
    "loader processes": ({"data": {"source": "files", "workers": 1}}, 1),
    "two processes": ({}, 2),
    "LoRun": (LORUN, 1),
}
# The short form, and the long one: so many kills of each case.
SHORT = {"one process": 1}
LONG = {"one process": 40, "loader processes": 15, "two processes": 25, "LoRun": 20}


@pytest.mark.parametrize("case", SHORT)
def test_killed_runs_go_on_to_the_bit(tmp_path, case):
    tree, processes = CASES[case]
    killed_runs(Run(tmp_path, tree, processes), SHORT[case], seed=1)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_runs_killed_a_hundred_times_go_on_to_the_bit(tmp_path, case):
    tree, processes = CASES[case]
    killed_runs(Run(tmp_path, tree, processes), LONG[case], seed=2)
