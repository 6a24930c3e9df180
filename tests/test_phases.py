"""Training LoRun in two phases, and the files of its adapters."""

import json
import os
import shutil
import signal

import cv2
import pytest
import torch
from safetensors.torch import save_file

import lgmnet
from lgmnet.build import build_model
from lgmnet.config import ConfigError, config_from_dict
from lgmnet.runtime import Runtime
from lgmnet.training import gradients, loop
from lgmnet.training.phases import phases, train_phases
from lgmnet.weights import saved, tensor_files
from lgmnet.weights.adapters import Adapted
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.saved import find_weights
from tests.conftest import smooth_image, tiny_config

CPU = Runtime(torch.device("cpu"))
MODEL = {"name": "lorun", "stages": 2, "denoiser": "transformer", "width": 4}
LORA = {"share": 0.4}


def lorun_config(folder, model=(), **changes):
    """Ten steps: six of the backbone, four of the adapters."""
    changes["training"] = {"steps_per_epoch": 10, "batch_size": 2, **changes.get("training", {})}
    config = tiny_config(folder, **{"lora": LORA, **changes})
    return config_from_dict({**config.as_dict(), "model": {**MODEL, **dict(model)}})


def tensors(path):
    return tensor_files.read_tensors(path)


def backbone_of(state):
    return {k: v for k, v in state.items() if k.startswith("network.backbone.")}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for k in range(3):
        cv2.imwrite(str(folder / f"image{k}.png"), smooth_image(64, 96, k))
    return folder


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """A finished run, which no test changes."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train_phases(lorun_config(images), folder, CPU) == 0
    return folder


@pytest.mark.parametrize("missing", [1, 3, 4])
def test_a_run_goes_on_from_every_gap_between_its_phases(images, run, tmp_path, missing):
    """As after a kill before the adapters, the second phase, or the last file of the first."""
    folder = tmp_path / "run"
    train_phases(lorun_config(images), folder, CPU)
    written = ("adapters.safetensors", "last.safetensors", "last.pt", "backbone/last.safetensors")
    for name in written[:missing]:
        (folder / name).unlink()
    assert train_phases(lorun_config(images), folder, CPU, resume=True) == 0
    expected, found = tensors(run / written[0]), tensors(folder / written[0])
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_finished_backbone_is_not_lengthened(images, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    longer = lorun_config(images, training={"steps_per_epoch": 10, "epochs": 2})
    with pytest.raises(CheckpointError, match="backbone in .* is finished, after 6 steps"):
        train_phases(longer, tmp_path / "run", CPU, resume=True)


def stop_at(step, monkeypatch):
    """Send a signal when the ``step``-th step of both phases together is computed."""
    original = gradients.backward

    def counted(*arguments):
        counted.steps += 1
        if counted.steps == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    counted.steps = 0
    monkeypatch.setattr(gradients, "backward", counted)


def test_the_second_phase_leaves_the_backbone_to_the_bit(run):
    first, second = (tensors(run / f / "last.safetensors") for f in ("backbone", "."))
    assert backbone_of(first)
    assert all(torch.equal(second[k], v) for k, v in backbone_of(first).items())
    moved = [k for k in second if k.endswith("left") and second[k].any()]
    assert len(moved) == 2 * 26  # layers of the Transformer, in two stages
    for trained in ("operator.matrix", "network.iterations.1.data_step.step"):
        assert not torch.equal(first[trained], second[trained])


def test_each_phase_is_an_ordinary_run(run):
    steps = [find_weights(run / f).metadata["step"] for f in ("backbone", ".")]
    assert steps == ["6", "4"]
    first, second = (find_weights(run / f).config for f in ("backbone", "."))
    assert first.model.options["sharing"] == "shared"
    assert first.lora is None
    assert second.training.seed == first.training.seed + 2**21  # other crops
    assert phases(second, run) == [(second, run)]  # its config gives the same phase again
    assert phases(first, run) == [(first, run)]


@pytest.mark.parametrize("step", [3, 8])
def test_either_phase_resumes_to_the_bit(run, images, tmp_path, monkeypatch, step):
    config = lorun_config(images)
    stop_at(step, monkeypatch)
    assert train_phases(config, tmp_path / "parts", CPU) == signal.SIGTERM
    assert not (tmp_path / "parts" / "last.safetensors").exists()
    assert train_phases(config, tmp_path / "parts", CPU, resume=True) == 0
    for name in ("backbone/last.safetensors", "last.safetensors", "adapters.safetensors"):
        whole, parts = tensors(run / name), tensors(tmp_path / "parts" / name)
        assert all(torch.equal(whole[key], parts[key]) for key in whole), name


def test_a_run_stopped_between_its_phases_goes_on_with_the_second(
    run, images, tmp_path, monkeypatch
):
    parts = tmp_path / "parts"
    loop.train(phases(lorun_config(images), parts)[0].config, parts / "backbone", CPU)
    assert train_phases(lorun_config(images), parts, CPU, resume=True) == 0
    whole, again = (tensors(f / "last.safetensors") for f in (run, parts))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_a_finished_run_is_left_alone(run, images):
    with pytest.raises(CheckpointError, match="is finished"):
        train_phases(lorun_config(images), run, CPU, resume=True)


def test_a_single_stage_can_be_the_backbone(images, tmp_path):
    config = lorun_config(images, lora={**LORA, "backbone_sharing": "block1"})
    train_phases(config, tmp_path / "run", CPU)
    first, second = (find_weights(tmp_path / "run" / f) for f in ("backbone", "."))
    assert [len(w.load().network.iterations) for w in (first, second)] == [1, 2]


@pytest.mark.parametrize("sharing", ["independent", "shared", "block1"])
def test_other_kinds_of_sharing_are_one_phase(images, tmp_path, sharing):
    config = lorun_config(images, {"sharing": sharing})
    ((only, folder),) = phases(config, tmp_path / "run")
    assert folder == tmp_path / "run"
    assert only.training == config.training
    assert only.lora is None


def test_the_rate_and_milestones_of_a_phase(tmp_path):
    settings = {"epochs": 3, "steps_per_epoch": 100, "schedule": "multistep", "milestones": [2]}
    config = lorun_config("builtin", training=settings, lora={"share": 0.25, "rate": 0.5})
    first, second = (phase.config.training for phase in phases(config, tmp_path))
    assert (first.rate, second.rate) == (config.training.rate, 0.5)
    assert (first.steps, second.steps) == (225, 75)
    assert (first.milestones, second.milestones) == ((2,), (2,))
    timed = lorun_config("builtin", training={"minutes": 8.0}, lora={"share": 0.25})
    assert [phase.config.training.minutes for phase in phases(timed, tmp_path)] == [6, 2]


def test_the_backbone_of_another_ratio_is_adapted(run, images, tmp_path):
    other = {"sampling": {"ratio": 0.25}, "lora": {**LORA, "backbone": str(run)}}
    config = lorun_config(images, **other)
    assert train_phases(config, tmp_path / "other", CPU) == 0
    assert not (tmp_path / "other" / "backbone").exists()
    weights = find_weights(tmp_path / "other")
    assert weights.metadata["step"] == "4"
    state = tensors(weights.path)
    assert state["operator.matrix"].shape == (256, 1024)
    backbone = backbone_of(tensors(run / "last.safetensors"))
    assert all(torch.equal(state[k], v) for k, v in backbone.items())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"denoiser": "unet"}, "denoiser = transformer, but model.denoiser is unet"),
        ({"width": 8}, "width = 4, but model.width is 8"),
    ],
)
def test_a_backbone_of_another_denoiser_is_refused(run, images, tmp_path, model, message):
    config = lorun_config(images, model, lora={**LORA, "backbone": str(run)})
    with pytest.raises(CheckpointError, match=f"lora.backbone .*{message}"):
        train_phases(config, tmp_path / "other", CPU)


def test_a_backbone_of_another_network_is_refused(images, tmp_path):
    config = tiny_config()
    path = tmp_path / "w.safetensors"
    saved.save_weights(path, build_model(config), config)
    config = lorun_config(images, lora={**LORA, "backbone": str(path)})
    with pytest.raises(CheckpointError, match="LGMNet has no backbone"):
        train_phases(config, tmp_path / "other", CPU)


def test_a_run_begins_from_one_thing(images, tmp_path):
    """A start is the first phase's; with a given backbone it would be a second one."""
    config = lorun_config(images, training={"start": "w"})
    assert [phase.config.training.start for phase in phases(config, tmp_path)] == ["w", ""]
    config = lorun_config(images, training={"start": "w"}, lora={**LORA, "backbone": "b"})
    with pytest.raises(ConfigError, match="starts from one of them"):
        phases(config, tmp_path)


def test_lora_is_for_lorun(images, tmp_path):
    with pytest.raises(ConfigError, match="lora is for the network lorun, but model is lgm_net"):
        phases(tiny_config(images, lora=LORA), tmp_path)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"share": 0}, "lora.share is 0.0, expected 0 < share < 1"),
        ({"share": 1}, "lora.share is 1.0, expected 0 < share < 1; or 1 with a lora.backbone"),
        ({"backbone_sharing": "lora"}, "lora.backbone_sharing is 'lora'"),
        ({"backbones": "x"}, "unknown config key 'lora.backbones'; did you mean 'backbone'"),
    ],
)
def test_bad_settings_are_explained(lora, message):
    with pytest.raises(ConfigError, match=message):
        lorun_config("builtin", lora=lora)


def test_adapters_on_their_backbone_are_the_trained_network(run):
    """On the backbone of the first phase, as on any weights that hold it."""
    image = torch.rand(1, 1, 64, 64)
    expected = lgmnet.load(run).reconstruct(lgmnet.load(run).measure(image))
    for backbone in (run / "backbone", run):
        model = lgmnet.load_adapted(backbone, run / "adapters.safetensors")
        assert torch.equal(model.reconstruct(model.measure(image)), expected)
    merged = lgmnet.load_adapted(run / "backbone", run / "adapters.safetensors", "per_stage")
    assert merged.network.sharing == "independent"
    rebuilt = merged.reconstruct(merged.measure(image))
    torch.testing.assert_close(rebuilt, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("merge", ["on_the_fly", "per_stage"])
def test_backbone_and_adapters_are_joined_in_one_file(run, tmp_path, merge):
    adapted = Adapted(find_weights(run / "backbone"), run / "adapters.safetensors", merge)
    adapted.save(tmp_path / "joined" / "model.safetensors")
    image = torch.rand(1, 1, 32, 32)
    joined = lgmnet.load(tmp_path / "joined")
    assert torch.equal(joined(image).image, adapted.load()(image).image)


def test_the_adapters_file_is_small_and_says_what_it_is(run):
    path = run / "adapters.safetensors"
    state = tensors(path)
    assert not backbone_of(state)
    assert state["operator.matrix"].shape == (103, 1024)
    metadata = tensor_files.read_metadata(path, "lgmnet-adapters/1")
    assert json.loads(metadata["config"])["model"]["name"] == "lorun"
    assert path.stat().st_size < (run / "last.safetensors").stat().st_size


def test_adapters_of_another_backbone_are_refused(run, tmp_path):
    config = find_weights(run / "backbone").config
    other = tmp_path / "other" / "model.safetensors"
    saved.save_weights(other, build_model(config), config)
    with pytest.raises(CheckpointError, match="trained on another backbone than that of other"):
        lgmnet.load_adapted(other, run / "adapters.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, tree: tree["model"].update(stages=10**6), "more than .* modules and tensors"),
        (lambda m, tree: tree["sampling"].update(ratio=0.5), r"\(103, 1024\), but ratio 0.5"),
        (lambda m, tree: m.pop("backbone_sha256"), "trained on another backbone"),
        (lambda m, tree: tree.clear(), "the config in .* cannot be used"),
    ],
)
def test_what_an_adapters_file_declares_is_not_believed(run, tmp_path, change, message):
    path = run / "adapters.safetensors"
    metadata = tensor_files.read_metadata(path, "lgmnet-adapters/1")
    tree = json.loads(metadata["config"])
    change(metadata, tree)
    metadata["config"] = json.dumps(tree)
    save_file(tensors(path), tmp_path / "a.safetensors", metadata)
    with pytest.raises(CheckpointError, match=message):
        lgmnet.load_adapted(run / "backbone", tmp_path / "a.safetensors")


def test_weights_are_no_adapters_and_adapters_are_no_weights(run):
    with pytest.raises(CheckpointError, match="expected lgmnet-adapters/1"):
        lgmnet.load_adapted(run, run / "last.safetensors")
    with pytest.raises(CheckpointError, match="give adapters with --adapters in addition to"):
        lgmnet.load(run / "adapters.safetensors")
    with pytest.raises(ValueError, match="merge is 'both', expected one of on_the_fly, per_stage"):
        lgmnet.load_adapted(run, run / "adapters.safetensors", "both")
