"""The Hugging Face hub, played by a folder; see test_the_hub_has_this_function for its words."""

import inspect
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

import lgmnet
from lgmnet.build import build_model
from lgmnet.weights import hub
from lgmnet.weights.saved import find_weights, save_weights
from tests.conftest import tiny_config
from tests.test_scripts import run_main


@pytest.fixture
def weights(tmp_path):
    """A folder of weights, as a training run leaves it."""
    config = tiny_config()
    save_weights(tmp_path / "w" / "best.safetensors", build_model(config), config)
    (tmp_path / "w" / "config.yaml").write_text(config.as_yaml())
    (tmp_path / "w" / "last.pt").write_bytes(b"a state, large and of no use to others")
    return tmp_path / "w"


@pytest.fixture
def served(tmp_path, weights, monkeypatch):
    """A hub whose only repository, me/mine, is the folder of weights."""

    def snapshot_download(repo_id, revision, allow_patterns):
        if repo_id != "me/mine":
            raise OSError("404 Client Error\nRepository Not Found")
        cached = tmp_path / "cache" / "snapshots" / (revision or "0a1b2c")
        cached.mkdir(parents=True, exist_ok=True)
        for pattern in allow_patterns:
            for file in weights.glob(pattern):
                shutil.copy(file, cached)
        return str(cached)

    functions = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", functions)


def test_weights_on_the_hub_are_loaded_by_their_name(served, weights):
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(lgmnet.load("hf:me/mine")(image).image, lgmnet.load(weights)(image).image)
    found = find_weights("hf:me/mine@v2")
    assert (found.name, found.path.parent.name) == ("mine", "v2")


def test_pulling_makes_a_folder_of_weights(served, weights, tmp_path, monkeypatch, capsys):
    pull = ["pull", "me/mine", "--output", tmp_path / "fetched"]
    assert run_main("scripts/hub.py", pull, monkeypatch) == 0
    assert find_weights(tmp_path / "fetched").config == find_weights(weights).config
    fetched = {path.name for path in (tmp_path / "fetched").iterdir()}
    assert fetched == {"best.safetensors", "config.yaml"}  # no state
    assert run_main("scripts/hub.py", pull, monkeypatch) == 1
    assert "exists" in capsys.readouterr().err


def test_what_cannot_be_fetched_is_explained(served):
    with pytest.raises(hub.HubError, match=r"cannot download me/none \(OSError: 404 .*\); check"):
        lgmnet.load("hf:me/none")


def test_without_huggingface_hub_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(hub.HubError, match=r"pip install .*\[hub\]"):
        lgmnet.load("hf:me/mine")


def test_the_hub_has_this_function():
    real = pytest.importorskip("huggingface_hub", reason="the extra 'hub' is not installed")
    asked = {"repo_id", "revision", "allow_patterns"}
    assert asked <= set(inspect.signature(real.snapshot_download).parameters)
    with pytest.raises(hub.HubError, match=r"cannot download no name \(HFValidationError"):
        hub.pull("hf:no name")
