"""On CUDA without CUDA: one device, few launches, one memory format, and nothing waits."""

import json
import os
import subprocess
import sys

import pytest

from lgmnet.project import PROJECT
from tests.fake_cuda import library

# Where the CPU waits for the GPU while an image is rebuilt: each line is a debt.
KNOWN = {
    "evaluation/rebuild.py reconstruct_plane reads a value",  # is y zero? the residual
    "weights/measurement.py measure_image copies cpu to cuda",
    "operators/block_sampling.py project reads a value",  # are the rows of Φ independent?
}
# Operations of one training step of the full LGM-Net in eager mode; 6,877 and 707 for the average
# before they were counted.
LAUNCHES = 3500


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    """What each check found, by its name."""
    try:
        built = library.build(tmp_path_factory.mktemp("library"))
    except OSError:
        pytest.skip("needs g++")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this PyTorch has other hooks for CUDA: {error.stderr.splitlines()[0]}")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.fake_cuda", built],
        capture_output=True, text=True, timeout=600, check=False, cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    return {check.pop("name"): check for check in checks}


def test_what_is_wrong_is_found(found):
    assert "aten.add.Tensor on cpu and cuda" in found["planted wrong device"]["error"]
    planted = found["planted waits"]
    assert planted["turned"] == 1
    assert sum(planted["waits"].values()) == 3


def test_every_tensor_is_on_its_device(found):
    errors = {name: check["error"] for name, check in found.items() if "error" in check}
    assert set(errors) <= {"planted wrong device"}, errors


def test_a_training_step_never_waits_for_the_device(found):
    waits = {name: check["waits"] for name, check in found.items() if name.startswith("train")}
    assert len(waits) == 4
    assert not any(waits.values()), waits
    assert not found["consensus"]["waits"]


def test_rebuilding_waits_only_where_it_is_known(found):
    checks = [check["waits"] for name, check in found.items() if name.startswith("evaluate")]
    assert len(checks) == 4
    assert set().union(*checks) == KNOWN


def test_a_step_of_the_full_network_launches_few_kernels(found):
    assert found["train lgm_net_budget"]["launches"] <= LAUNCHES


def test_convolutions_see_one_memory_format(found):
    for name in ("train lgm_net_budget", "train lgm_net_all_ratios", "train ista_net_plus"):
        assert found[name]["convolutions"] > 50
        assert found[name]["turned"] == 0, name
