"""A disk that is full or read-only: what was there stays, and the error names the file."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from lgmnet.files import TEMPORARY
from tests.conftest import PROJECT

SPACE = ["unshare", "--map-root-user", "--mount"]


# The commands of tests/disk.py. The short form has one for each kind of file: a state with its log,
# tables, a picture, a store.
COMMANDS = [
    "train", "test", "pictures", "measure", "reconstruct", "export weights", "plot", "pack",
]  # fmt: skip
SHORT = ["train", "test", "reconstruct", "pack"]


def has_mounts():
    """Whether this user may make a small disk, in a namespace of its own."""
    mount = [*SPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") and not subprocess.run(mount, capture_output=True).returncode


def small_disk(*arguments):
    done = subprocess.run(
        [*SPACE, sys.executable, *map(str, arguments)], capture_output=True, text=True,
        timeout=240, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not has_mounts(), reason="needs user namespaces (unshare) to make a small disk")
@pytest.mark.parametrize("commands", [SHORT, pytest.param(COMMANDS, marks=pytest.mark.long)])
def test_every_command_keeps_what_was_there_and_names_the_file(tmp_path, commands):
    cases = small_disk(PROJECT / "tests" / "disk.py", tmp_path, *commands)
    assert len(cases) == 2 * len(commands)  # full and read-only
    for name, case, code, text, changed in cases:
        assert code == 1, (name, case, text)
        assert f"{tmp_path}/disk" in text, (name, case, text)
        assert "Traceback" not in text
        assert not changed, (name, case, changed)
        assert not [word for word in text.split("/") if TEMPORARY.fullmatch(word.strip("'\n"))]
        if case == "full":
            assert "0.0 MB free" in text, (name, text)
