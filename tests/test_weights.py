"""What is shipped works, and reproduces the numbers that are printed."""

import json
import re
from pathlib import Path

import pytest
import torch

import lgmnet
from lgmnet.config import load_config
from lgmnet.data.datasets import open_test_set
from lgmnet.engine.checkpoint import Weights
from lgmnet.engine.evaluation import evaluate
from lgmnet.engine.runtime import Runtime, data_roots
from lgmnet.metrics import summarise

PROJECT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (PROJECT / "checkpoints").glob("*/model.safetensors"))
CPU = Runtime(torch.device("cpu"))

shipped = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def measured(folder, dataset):
    model = lgmnet.load(folder)
    results = evaluate(model, open_test_set(dataset, data_roots()), CPU)
    return summarise([result.score for result in results])


def test_something_is_shipped():
    assert "lgm_net_tiny_r0.10" in {folder.name for folder in FOLDERS}


@shipped
def test_weights_carry_config_data_and_phi(folder):
    weights = Weights(folder / "model.safetensors")
    assert weights.config == load_config(folder / "config.yaml")
    assert weights.load().operator.fingerprint() == weights.metadata["phi_sha256"]
    assert metrics(folder)["phi_sha256"] == weights.metadata["phi_sha256"]
    assert {"training_data", "step", "minutes", "commit"} <= set(weights.metadata)
    assert (folder / "log.jsonl").is_file()


@shipped
@pytest.mark.parametrize("dataset", ["builtin", pytest.param("Set11", marks=pytest.mark.shared)])
def test_weights_reproduce_their_metrics(folder, dataset):
    expected = metrics(folder)["datasets"][dataset]
    score = measured(folder, dataset)
    assert score.psnr == pytest.approx(expected["psnr"], abs=0.01)
    assert score.ssim == pytest.approx(expected["ssim"], abs=0.0005)


@shipped
def test_readme_prints_the_measured_numbers(folder):
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    for name, data in metrics(folder)["datasets"].items():
        score = rf"\| {data['psnr']:.2f} \| {data['ssim']:.4f} \|"
        assert re.search(rf"`{folder.name}`.*\| {name} {score}", text), name
