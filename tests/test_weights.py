"""What is shipped works, is what it was, and reproduces the numbers that are printed."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lgmnet
from lgmnet.config import load_config
from lgmnet.data.datasets import open_test_set
from lgmnet.data.synthetic_cubes import write_cubes
from lgmnet.evaluation.rebuild import Rules, evaluate
from lgmnet.metrics import PROTOCOLS, summarise
from lgmnet.runtime import Runtime, data_roots
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.saved import Weights
from tests.test_scripts import run_main

PROJECT = Path(__file__).parents[1]
SHIPPED = lgmnet.available()
CPU = Runtime(torch.device("cpu"))

shipped = pytest.mark.parametrize("weights", SHIPPED, ids=lambda weights: weights.name)
for_photographs = pytest.mark.parametrize(
    "weights", [w for w in SHIPPED if w.ratio is not None], ids=lambda weights: weights.name
)


def test_what_is_available_can_be_loaded_by_name():
    names = [weights.name for weights in SHIPPED]
    folders = (PROJECT / "checkpoints").glob("*/model.safetensors")
    assert names == sorted(path.parent.name for path in folders)
    first = SHIPPED[names.index("lgm_net_tiny_r0.10")]
    model = lgmnet.load(first.name)
    assert sum(p.numel() for p in model.network.parameters()) == first.parameters == 142_559
    assert model.operator.matrix.numel() == first.phi_entries
    assert first.psnr[0.1]["Set11"] == pytest.approx(29.708, abs=1e-3)
    assert (first.crops, first.minutes, first.images) == (36_444 * 8, 95, 1434)
    line = "lgm_net_tiny_r0.10: lgm_net at 10 %, 142,559 parameters and 105,472 of Φ; builtin 30.29"
    assert str(first).startswith(line)


def ends(weights):
    """The results of the only ratio; of a range the lowest and the highest: all take minutes."""
    return weights.results[:: max(1, len(weights.results) - 1)]


@shipped
def test_weights_carry_config_data_and_phi(weights):
    folder = weights.weights.path.parent
    metadata = weights.weights.metadata
    assert weights.config == load_config(folder / "config.yaml")
    assert weights.weights.load().operator.fingerprint() == metadata["phi_sha256"]
    for result in weights.results:
        at = {key: result[key] for key in ("ratio", "condition") if key in result}
        operator = lgmnet.load(weights.name, **at).operator
        assert operator.fingerprint() == result["phi_sha256"]
    assert {"training_data", "step", "minutes", "commit"} <= set(metadata)
    assert (folder / "log.jsonl").is_file()


@for_photographs
def test_weights_reproduce_the_metrics_of_an_image(weights):
    images = [image for image in open_test_set("builtin", []) if image.name == "coins"]
    for result in ends(weights):
        model = lgmnet.load(weights.name, result["ratio"])
        score = next(evaluate(model, images, CPU)).score
        expected = result["datasets"]["builtin"]["images"]["coins"]
        assert score.psnr == pytest.approx(expected["psnr"], abs=0.01)
        assert score.ssim == pytest.approx(expected["ssim"], abs=0.0005)


@pytest.mark.slow
@for_photographs
@pytest.mark.parametrize("dataset", ["builtin", pytest.param("Set11", marks=pytest.mark.shared)])
def test_weights_reproduce_their_metrics(weights, dataset):
    for result in ends(weights):
        model = lgmnet.load(weights.name, result["ratio"])
        results = evaluate(model, open_test_set(dataset, data_roots()), CPU)
        score = summarise([result.score for result in results])
        expected = result["datasets"][dataset]
        assert score.psnr == pytest.approx(expected["psnr"], abs=0.01)
        assert score.ssim == pytest.approx(expected["ssim"], abs=0.0005)


@for_photographs
def test_metrics_are_the_means_of_their_images(weights):
    for result in weights.results:
        for name, found in result["datasets"].items():
            for key in ("psnr", "ssim"):
                mean = np.mean([image[key] for image in found["images"].values()])
                assert found[key] == pytest.approx(mean), (result["ratio"], name)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mri_admm_net_mask_20", "mri_ista_net_plus_5_mask_20"])
def test_weights_for_mri_reproduce_the_metrics_of_an_image(name):
    [result] = next(w for w in SHIPPED if w.name == name).results
    image = next(iter(open_test_set("mri/chest/chest_train.npz[80:]", data_roots())))
    score = next(evaluate(lgmnet.load(name), [image], CPU)).score
    expected = result["datasets"]["chest_train_80-100"]["images"][image.name]
    assert score.psnr == pytest.approx(expected["psnr"], abs=0.01)
    assert score.ssim == pytest.approx(expected["ssim"], abs=0.0005)


def test_weights_for_super_resolution_reproduce_the_metrics_of_an_image():
    results = next(w for w in SHIPPED if w.name == "sr_lorun_x2").results
    [result] = [one for one in results if one["condition"] == "x2_k2"]
    [image] = [one for one in open_test_set("builtin", []) if one.name == "astronaut"]
    model = lgmnet.load("sr_lorun_x2", condition="x2_k2")
    score = next(
        evaluate(
            model, [image], CPU, Rules(color="color", protocol=PROTOCOLS["usr2"], padding="crop")
        )
    ).score
    expected = result["datasets"]["builtin"]["images"]["astronaut"]
    assert score.psnr == pytest.approx(expected["psnr"], abs=0.01)


def test_weights_for_spectral_imaging_reproduce_the_metrics_of_a_cube(tmp_path):
    [result] = next(w for w in SHIPPED if w.name == "cassi_pnp_gap").results
    write_cubes(tmp_path, 1, (128, 128), part="test")
    [cube] = open_test_set(str(tmp_path), [])
    rules = Rules(color="bands", protocol=PROTOCOLS["cassi"])
    score = next(evaluate(lgmnet.load("cassi_pnp_gap"), [cube], CPU, rules)).score
    expected = result["datasets"]["cubes_test"]["images"]["synthetic_000"]
    assert score.psnr == pytest.approx(expected["psnr"], abs=0.05)


@pytest.fixture
def copied(tmp_path):
    """The shipped folder, to be altered."""
    shutil.copytree(PROJECT / "checkpoints", tmp_path / "checkpoints")
    return tmp_path / "checkpoints" / "lgm_net_tiny_r0.10" / "model.safetensors"


def test_altered_weights_are_refused_with_both_hashes(copied):
    lgmnet.load(copied)
    content = bytearray(copied.read_bytes())
    content[-1] ^= 1  # one bit of one number: nothing else would notice
    copied.write_bytes(content)
    told = Weights(copied)
    with pytest.raises(CheckpointError, match=r"SHA-256 \w{64}, but .* says \w{64}: .*git"):
        told.load()
    other = copied.with_name("best.safetensors")
    copied.rename(other)
    lgmnet.load(other)  # not listed: weights of one's own need no hash
    (copied.parents[1] / "SHA256SUMS").unlink()
    other.rename(copied)
    lgmnet.load(copied)


def test_weights_exported_over_others_load_and_have_no_scores_yet(copied, tmp_path, monkeypatch):
    shutil.copytree(copied.parent, tmp_path / "run")
    arguments = [tmp_path / "run", "--output", copied.parent, "--precision", "bf16"]
    assert run_main("scripts/export_weights.py", arguments, monkeypatch) == 0
    assert not list(copied.parent.glob("metrics.*"))
    lgmnet.load(copied)
    assert (copied.parents[1] / "SHA256SUMS").read_text().count("model.safetensors") == (
        len(lgmnet.available()) - 1
    )


@pytest.fixture
def make_tables():
    path = PROJECT / "scripts" / "make_tables.py"
    spec = importlib.util.spec_from_file_location("make_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_cards_and_hashes_are_what_the_files_say(monkeypatch, capsys):
    """After a change: python scripts/make_tables.py."""
    assert run_main("scripts/make_tables.py", ["--check"], monkeypatch) == 0, capsys.readouterr()


def test_a_table_or_card_that_is_out_of_date_is_noticed_and_mended(
    copied, make_tables, monkeypatch, capsys
):
    project = copied.parents[2]
    (project / "docs").mkdir()
    shutil.copy(PROJECT / "README.md", project)
    shutil.copy(PROJECT / "docs" / "results.md", project / "docs")
    monkeypatch.setattr(make_tables, "PROJECT", project)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["make_tables.py", *arguments])
        return make_tables.main(), capsys.readouterr().out

    assert run("--check") == (0, "")
    metrics = copied.with_name("metrics.json")
    result = json.loads(metrics.read_text(encoding="utf-8"))
    result["datasets"]["LIVE29"]["psnr"] = 29.0
    metrics.write_text(json.dumps(result), encoding="utf-8")
    code, out = run("--check")
    assert code == 1
    assert "docs/results.md is out of date" in out
    assert "lgm_net_tiny_r0.10/README.md is out of date" in out
    assert "lgm_net_tiny_r0.25" not in out
    assert run()[0] == 0
    page = (project / "docs" / "results.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if "29.00 /" in line)
    assert [cell.strip() for cell in row.split("|")[3:-1]] == [
        "LIVE29", "29.00 / 0.8239", "28.85 / 0.8488", "+0.15",
    ]  # fmt: skip
    assert run("--check") == (0, "")


def test_of_a_range_set11_is_shown_per_ratio_and_of_one_ratio_all(make_tables):
    several = next(weights for weights in SHIPPED if isinstance(weights.ratio, tuple))
    one = next(weights for weights in SHIPPED if isinstance(weights.ratio, float))
    rows = [row.split("|") for row in make_tables.results_table([several, one]).splitlines()[2:]]
    assert len(rows) == len(several.results) + len(one.results[0]["datasets"])
    of_range = rows[: len(several.results)]
    assert {row[3].strip() for row in of_range} == {"Set11"}
    assert [row[2].strip() for row in of_range] == ["1 %", "4 %", "10 %", "25 %", "50 %"]
