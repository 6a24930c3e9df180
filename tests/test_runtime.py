"""The device of a command: its name, and its choice."""

import io
from types import SimpleNamespace

import cv2
import pytest
import torch

from lgmnet import runtime
from lgmnet.build import build_model
from lgmnet.runtime import Runtime
from lgmnet.weights.saved import save_weights
from tests.conftest import PROJECT, smooth_image, tiny_config
from tests.test_scripts import run_main

CPU = torch.device("cpu")


@pytest.mark.parametrize(("threads", "text"), [(1, "1 thread"), (8, "8 threads")])
def test_a_cpu_is_described_by_its_name_and_threads(threads, text, monkeypatch):
    monkeypatch.setattr(runtime, "processor", lambda: "AMD EPYC")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert runtime.describe(CPU) == f"cpu (AMD EPYC, {text})"


@pytest.mark.parametrize(("name", "number"), [("cuda", 2), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_is_described_by_its_number_name_and_memory(name, number, monkeypatch):
    def properties(index):
        return SimpleNamespace(name=f"GPU {index}", total_memory=79 * 2**30 + 1000)

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    expected = f"cuda:{number} (GPU {number}, 79 GiB)"
    assert runtime.describe(torch.device(name)) == expected


def test_the_main_process_names_the_device_for_all():
    lines = []
    for here in (Runtime(CPU), Runtime(CPU, 0, 2), Runtime(CPU, 1, 2)):
        stream = io.StringIO()
        runtime.announce(here, stream)
        lines.append(stream.getvalue())
    name = runtime.describe(CPU)
    assert lines == [f"device: {name}\n", f"device: {name}, 2 processes\n", ""]


def test_every_command_that_runs_a_network_names_its_device_first(tmp_path, monkeypatch, capsys):
    """On stdout where the run is told, else on stderr, beside results on stdout."""
    monkeypatch.chdir(PROJECT)
    config = tiny_config()
    save_weights(tmp_path / "w" / "model.safetensors", build_model(config), config)
    (tmp_path / "config.yaml").write_text(config.as_yaml())
    cv2.imwrite(str(tmp_path / "photo.png"), smooth_image(50, 70))
    weights, photo, y = tmp_path / "w", tmp_path / "photo.png", tmp_path / "y.safetensors"
    monkeypatch.setattr("lgmnet.costs.preflight.SPEED_SECONDS", 0.1)
    commands = {
        "train.py": [tmp_path / "config.yaml", "--dry-run"],
        "test.py": [weights, "--data", photo, "--output", tmp_path / "r"],
        "scripts/measure.py": [photo, "--weights", weights, "--output", y],
        "scripts/reconstruct.py": [y, "--weights", weights, "--output", tmp_path / "out.png"],
        "scripts/benchmark.py": [weights, "--size", 32, "--rounds", 1, "--output", tmp_path / "b"],
        "scripts/measure_lorun.py": ["--denoisers", "dpfb", "--stages", 1, "--rounds", 0],
    }
    first = f"device: {runtime.describe(CPU)}"
    for script, arguments in commands.items():
        assert run_main(script, [*arguments, "--device", "cpu"], monkeypatch) == 0
        found = capsys.readouterr()
        text = found.out if script == "train.py" else found.err
        assert text.splitlines()[0] == first, script
        assert (found.out + found.err).count("device: ") == 1, script
    slow = {"scripts/make_figure.py": ["--output", tmp_path / "figure.png"]}
    for script, arguments in (commands | slow).items():
        assert run_main(script, [*arguments, "--device", "gpu"], monkeypatch) == 1
        assert "--device is 'gpu', expected auto, cpu, cuda" in capsys.readouterr().err
