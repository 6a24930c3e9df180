import json
import pickle
import time

import pytest
import torch
from safetensors.torch import save_file

import lgmnet
from lgmnet import runtime
from lgmnet.build import Source, build_model
from lgmnet.config import config_from_dict
from lgmnet.models import MODELS
from lgmnet.models.base import strip_prefix
from lgmnet.operators import BlockSampling, matrices
from lgmnet.training import states
from lgmnet.training.states import save_state
from lgmnet.weights import foreign, tensor_files
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.saved import Weights, adopt_weights, find_weights, save_weights
from lgmnet.weights.shipped import describe
from tests.conftest import tiny_config
from tests.test_models import BLUR, FOURIER, SMALL


@pytest.fixture
def saved(tmp_path):
    """A model and the file it was saved to."""
    config = tiny_config()
    model = build_model(config)
    path = tmp_path / "mine" / "model.safetensors"
    save_weights(path, model, config, {"step": "7"})
    return model, path


def test_weights_alone_rebuild_the_model(saved):
    model, path = saved
    image = torch.rand(1, 1, 32, 64)
    loaded = lgmnet.load(path)
    assert not loaded.training
    assert torch.equal(loaded(image).image, model(image).image)


@pytest.mark.parametrize("folder", ["run.yaml", "run.pt"])
def test_a_run_folder_may_be_named_like_a_file(saved, tmp_path, folder):
    """``train.py --output run.yaml``: it is no config that its scores are sought in."""
    _, path = saved
    path.parent.rename(tmp_path / folder)
    assert find_weights(tmp_path / folder).path == tmp_path / folder / path.name


def test_weights_are_found_by_folder_file_and_name(saved, monkeypatch):
    _, path = saved
    assert find_weights(path).path == path
    assert find_weights(path.parent).path == path
    monkeypatch.setattr(runtime, "checkpoint_roots", lambda: [path.parents[1]])
    found = find_weights("mine")
    assert (found.path, found.name) == (path, "mine")


def test_metadata_say_what_the_weights_are(saved):
    model, path = saved
    metadata = Weights(path).metadata
    assert metadata["step"] == "7"
    assert metadata["phi_sha256"] == model.operator.fingerprint()
    assert json.loads(metadata["config"])["sampling"]["ratio"] == 0.1


def test_the_hash_of_phi_belongs_to_the_stored_precision(tmp_path):
    config = tiny_config()
    path = tmp_path / "model.safetensors"
    save_weights(path, build_model(config), config, precision=torch.bfloat16)
    weights = Weights(path)
    assert weights.load().operator.fingerprint() == weights.metadata["phi_sha256"]


def test_unknown_weights_list_the_shipped_ones(saved, monkeypatch):
    monkeypatch.setattr(runtime, "checkpoint_roots", lambda: [saved[1].parents[1]])
    with pytest.raises(CheckpointError, match="no weights 'yours'.*shipped weights: mine"):
        lgmnet.load("yours")


@pytest.mark.parametrize("keep", [0, 5, 200, -10])
def test_a_truncated_file_is_refused(saved, keep):
    path = saved[1]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        lgmnet.load(path)


@pytest.fixture
def declare(tmp_path):
    """A weights file of a tiny network whose config is another."""

    def write(metadata=None, **changes):
        config = tiny_config()
        tree = config.as_dict()
        for section, values in changes.items():
            tree[section] |= values
        model = build_model(config)
        metadata = {"config": json.dumps(tree)} | (metadata or {})
        save_weights(tmp_path / "w.safetensors", model, config, metadata)
        return tmp_path / "w.safetensors"

    return write


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"D": 5000}}, "has more than .* modules and tensors"),
        ({"model": {"dim": 10**6}}, "but the model needs"),
        ({"model": {"dim": 10**9}}, "cannot be built .*overflow"),
        ({"model": {"dim": 10**30}}, "cannot be built"),
        ({"model": {"mid_factor": 10**6}}, "has more than .* modules and tensors"),
        ({"model": {"name": "ista_net", "stages": 10**6}}, "not those that its config describes"),
        ({"sampling": {"block_size": 10**6}}, r"Φ has shape \(103, 1024\), but .* size 1000000"),
        ({"sampling": {"block_size": 10**200}}, "not those that its config describes"),
        (
            {"sampling": {"ratio": 1.0}},
            r"Φ has shape \(103, 1024\), but ratio 1.0, rounding 'ceil'",
        ),
        ({"sampling": {"rounding": "floor"}}, r"'floor' and block size 32 need \(102, 1024\)"),
        ({"sampling": {"ratio": [0.1, 0.5]}}, r"need \(512, 1024\)"),
        ({"sampling": {"rounding": "table33"}}, "'table33' needs block size 33"),
        ({"sampling": {"ratio": 10**400}}, "the config in .* cannot be used: sampling.ratio"),
        ({"model": {"name": "resnet"}}, "unknown model 'resnet'"),
    ],
)
@pytest.mark.parametrize("use", [lgmnet.load, describe])
def test_a_file_that_declares_another_network_is_refused_at_once(use, changes, message, declare):
    path = declare(**changes)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        use(path)
    assert time.process_time() - start < 2  # D = 5000 takes a minute and 9 GB to build


@pytest.mark.parametrize("name", MODELS.names())
def test_the_shadow_of_a_model_has_its_tensors(name, tmp_path):
    tree = {**tiny_config().as_dict(), "model": {"name": name, **SMALL[name]}}
    if name in FOURIER:
        tree["sampling"] = {"operator": "fourier_mask", "mask": "cartesian", "size": [16, 16]}
    if name in BLUR:
        tree["sampling"] = {"operator": "blur_down", "kernel_numbers": [1, 2]}
    config = config_from_dict(tree)
    model = build_model(config)
    for tensor in model.state_dict().values():
        tensor.nan_to_num_()  # what training would fit
    save_weights(tmp_path / "w.safetensors", model, config)
    shadow = Weights(tmp_path / "w.safetensors").shadow()
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in shadow.state_dict().items()} == shapes
    assert all(value.is_meta for value in shadow.state_dict().values())


@pytest.mark.parametrize("config", ["", "[]", "{", "[" * 10**5, '{"model": 1}', '{"model": {}}'])
def test_a_config_that_cannot_be_read_is_explained(config, declare):
    with pytest.raises(CheckpointError, match=r"the config in .*w\.safetensors cannot be used"):
        lgmnet.load(declare({"config": config}))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.complex64])
def test_tensors_of_another_type_are_refused(dtype, declare):
    path = declare()
    metadata = tensor_files.read_metadata(path)
    state = tensor_files.read_tensors(path)
    state["network.lift.bias"] = state["network.lift.bias"].to(dtype)
    save_file(state, path, metadata)
    with pytest.raises(CheckpointError, match=rf"network.lift.bias in .* has type {dtype}"):
        lgmnet.load(path)


@pytest.mark.parametrize("key", ["step", "minutes", "training_images"])
@pytest.mark.parametrize("value", ["many", "", "nan", "inf", "-1"])
def test_metadata_that_are_no_numbers_are_named(key, value, declare):
    with pytest.raises(CheckpointError, match=f"{key} in .* is '{value}', expected a number >= 0"):
        describe(declare({key: value}))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ratio": "a", "datasets": {}}'])
def test_scores_that_cannot_be_read_are_named(content, declare):
    path = declare()
    path.with_name("metrics.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"metrics\.json is not a metrics\.json of test\.py"):
        describe(path)


@pytest.mark.shared
def test_a_small_file_that_declares_thousands_of_stages_is_refused(reference):
    file = reference.parent / "cases" / "weights_declares_D_5000.safetensors"
    with pytest.raises(CheckpointError, match="its config describes"):
        lgmnet.load(file)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a weights file of lgmnet"):
        lgmnet.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("network.lift.weight"), "has no tensor network.lift.weight"),
        (lambda s: s.update({"network.extra": torch.zeros(1)}), "such as network.extra"),
        (
            lambda s: s.update({"network.lift.bias": torch.zeros(9)}),
            r"network.lift.bias .* shape \(9,\), but the model needs \(4,\)",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change, message):
    model = build_model(tiny_config())
    state = model.state_dict()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        tensor_files.load_state(model, state, "file")


def test_weights_of_another_ratio_are_refused():
    model = build_model(tiny_config())
    other = build_model(tiny_config(sampling={"ratio": 0.25}))
    with pytest.raises(CheckpointError, match="another network, ratio or block"):
        tensor_files.load_state(model, other.state_dict(), "file")


def test_a_pickle_that_runs_code_is_never_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    for name in ("evil.pkl", "evil.pt"):
        with pytest.raises(CheckpointError, match="never loaded"):
            foreign.load_foreign(tmp_path / name)
    assert not marker.exists()


def test_foreign_files_must_hold_tensors(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="expected a dict of tensors"):
        foreign.load_foreign(tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="there is no file"):
        foreign.load_foreign(tmp_path / "none.pt")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"params": s},
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {"params": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
        lambda s: {k.replace(".", "._orig_mod."): v for k, v in s.items()},
    ],
)
def test_what_wrappers_add_to_foreign_tensors_is_removed(wrap, tmp_path):
    torch.save(wrap({"a.weight": torch.ones(2), "b": torch.zeros(1)}), tmp_path / "x.pt")
    found = strip_prefix(foreign.load_foreign(tmp_path / "x.pt"))
    assert list(found) == ["a.weight", "b"]
    assert found["a.weight"].tolist() == [1, 1]


def test_of_several_states_in_a_foreign_file_none_is_guessed(tmp_path):
    state = {"a": torch.zeros(1)}
    torch.save({"params": state, "params_ema": state}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="contains params, params_ema, .*; it has 2 of them"):
        foreign.load_foreign(tmp_path / "x.pt")
    torch.save({"epoch": 3, "best": 0.1}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="contains epoch, best, expected a dict of tensors$"):
        foreign.load_foreign(tmp_path / "x.pt")


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        states.load_training_state(tmp_path / "last.pt", tiny_config())


def test_a_full_disk_leaves_the_previous_state(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_state(path, {"step": 1})

    def full(*arguments):
        arguments[1].write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="previous file is untouched; make room on the disk"):
        save_state(path, {"step": 2})
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_matrix_file_of_another_ratio_names_its_own(tmp_path):
    import numpy as np

    from lgmnet.config import ConfigError

    np.save(tmp_path / "phi.npy", matrices.orthonormal(256, 1024).numpy())
    config = tiny_config(sampling={"phi_init": str(tmp_path / "phi.npy")})
    with pytest.raises(ConfigError, match=r"256 numbers per block \(ratio 0.2500\).*needs 103"):
        build_model(config)
    config = tiny_config(sampling={"phi_init": str(tmp_path / "phi.npy"), "ratio": 0.25})
    assert isinstance(build_model(config).operator, BlockSampling)


def test_pca_is_the_start_that_best_keeps_images():
    """Φᵀ Φx of unseen blocks is closer to x from the PCA of images than from random rows."""
    from lgmnet.data.crops import sample_blocks
    from lgmnet.training.images import open_data

    config = tiny_config(data={"exclude": ["moon.png"]})
    images = open_data(config).train
    test = sample_blocks(open_data(tiny_config()).train, 32, 500, seed=5)
    errors = {}
    for start in ("pca", "orthonormal"):
        sampling = tiny_config(sampling={"phi_init": start}).sampling
        matrix = sampling.initial_matrix(Source(images=images))
        errors[start] = float((test - test @ matrix.T @ matrix).square().mean())
    assert errors["pca"] < 0.2 * errors["orthonormal"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "lgm_nett"}}, "unknown model 'lgm_nett'; did you mean 'lgm_net'?"),
        ({"model": {"depth": 4}}, "has no option 'depth'"),
        ({"model": {"D": "many"}}, "model.D is 'many', expected int"),
        ({"model": {"scales": 7}}, "scales is '7'"),
        ({"sampling": {"phi_init": "identity"}}, "expected xavier, gaussian"),
        ({"sampling": {"phi_init": "none.mat"}}, "there is no sampling matrix at none.mat"),
        ({"sampling": {"rounding": "table33"}}, "block size 33"),
    ],
)
def test_settings_that_cannot_be_built_are_explained(changes, message):
    from lgmnet.config import ConfigError

    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        build_model(tiny_config(**changes))


def test_a_model_starts_like_weights_of_another_ratio(tmp_path):
    path, trained = tmp_path / "w.safetensors", build_model(tiny_config())
    save_weights(path, trained, tiny_config())
    for ratio, same in ((0.1, True), (0.25, False)):
        torch.manual_seed(1)
        model = build_model(tiny_config(sampling={"ratio": ratio, "phi_init": "gaussian"}))
        own = model.operator.state_dict()["matrix"].clone()
        adopt_weights(model, path)
        theirs = trained.network.state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in model.network.state_dict().items())
        expected = trained.operator.state_dict()["matrix"] if same else own
        assert torch.equal(model.operator.state_dict()["matrix"], expected)
    model = build_model(tiny_config(sampling={"phi_init": "gaussian"}))
    own = model.operator.state_dict()["matrix"].clone()
    adopt_weights(model, path, phi=False)
    assert torch.equal(model.operator.state_dict()["matrix"], own)
    with pytest.raises(CheckpointError, match=r"in training.start .*w.safetensors has shape"):
        adopt_weights(build_model(tiny_config(model={"dim": 4, "D": 2})), path)
