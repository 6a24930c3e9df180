"""The Hugging Face hub, played by a folder; see test_the_hub_has_these_functions for its words."""

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
def served(tmp_path, monkeypatch):
    """A folder that stands for the hub, and huggingface_hub's functions upon it."""
    root = tmp_path / "hub"

    def create_repo(repo_id, private, exist_ok):
        (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(repo_id, folder_path, allow_patterns):
        for pattern in allow_patterns:
            for file in folder_path.glob(pattern):
                shutil.copy(file, root / repo_id)
        return f"https://hub/{repo_id}"

    def snapshot_download(repo_id, revision, allow_patterns):
        if not (root / repo_id).is_dir():
            raise OSError("404 Client Error\nRepository Not Found")
        cached = tmp_path / "cache" / "snapshots" / (revision or "0a1b2c")
        shutil.copytree(root / repo_id, cached, dirs_exist_ok=True)
        return str(cached)

    functions = SimpleNamespace(
        create_repo=create_repo, upload_folder=upload_folder, snapshot_download=snapshot_download
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", functions)
    return root


@pytest.fixture
def weights(tmp_path):
    config = tiny_config()
    save_weights(tmp_path / "w" / "best.safetensors", build_model(config), config)
    (tmp_path / "w" / "config.yaml").write_text(config.as_yaml())
    (tmp_path / "w" / "last.pt").write_bytes(b"a state, large and of no use to others")
    return tmp_path / "w"


def test_what_is_pushed_is_loaded_by_its_name(served, weights, monkeypatch, capsys):
    push = ["push", weights, "me/mine"]
    assert run_main("scripts/hub.py", push, monkeypatch) == 0
    assert capsys.readouterr().out == "https://hub/me/mine\n"
    present = {path.name for path in (served / "me" / "mine").iterdir()}
    assert present == {"best.safetensors", "config.yaml"}
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(lgmnet.load("hf:me/mine")(image).image, lgmnet.load(weights)(image).image)
    found = find_weights("hf:me/mine@v2")
    assert (found.name, found.path.parent.name) == ("mine", "v2")


def test_pulling_makes_a_folder_of_weights(served, weights, tmp_path, monkeypatch, capsys):
    hub.push(weights, "me/mine")
    pull = ["pull", "me/mine", "--output", tmp_path / "fetched"]
    assert run_main("scripts/hub.py", pull, monkeypatch) == 0
    assert find_weights(tmp_path / "fetched").config == find_weights(weights).config
    assert run_main("scripts/hub.py", pull, monkeypatch) == 1
    assert "exists" in capsys.readouterr().err


def test_what_cannot_be_fetched_or_pushed_is_explained(served, tmp_path):
    with pytest.raises(hub.HubError, match=r"cannot fetch me/none \(OSError: 404 .*\); check"):
        lgmnet.load("hf:me/none")
    with pytest.raises(hub.HubError, match=r"holds no \.safetensors file"):
        hub.push(tmp_path, "me/mine")


def test_without_huggingface_hub_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(hub.HubError, match=r"pip install .*\[hub\]"):
        lgmnet.load("hf:me/mine")


def test_the_hub_has_these_functions():
    real = pytest.importorskip("huggingface_hub", reason="the extra 'hub' is not installed")
    for name, arguments in (
        ("create_repo", {"repo_id", "private", "exist_ok"}),
        ("upload_folder", {"repo_id", "folder_path", "allow_patterns"}),
        ("snapshot_download", {"repo_id", "revision", "allow_patterns"}),
    ):
        assert arguments <= set(inspect.signature(getattr(real, name)).parameters)
    with pytest.raises(hub.HubError, match=r"cannot fetch no name \(HFValidationError"):
        hub.pull("hf:no name")
