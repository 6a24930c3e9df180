"""Φ that hardware can show: the Hadamard basis and its orders, learned patterns of few values."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.ndimage import label

from lgmnet.build import Source, build_model
from lgmnet.config import ConfigError
from lgmnet.operators import PatternSampling
from lgmnet.operators.hadamard import ORDERINGS, hadamard
from lgmnet.operators.patterns import STEPS, nearest, start_patterns
from lgmnet.runtime import Runtime
from lgmnet.training.loop import train
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.saved import Weights, save_weights
from tests.conftest import smooth_image, tiny_config
from tests.test_training import train_steps

CPU = Runtime(torch.device("cpu"))
LEARNED = ("binary", "sign", "8bit")
ALLOWED = {
    "binary": {0.0, 1.0},
    "sign": {-1.0, 1.0},
    "8bit": {k / STEPS for k in range(-STEPS, STEPS)},
}


def changes(pattern):
    """Sign changes along all rows and all columns."""
    return sum(int((np.diff(np.sign(pattern), axis=axis) != 0).sum()) for axis in (0, 1))


def areas(pattern):
    """Connected areas of one sign."""
    return label(pattern > 0)[1] + label(pattern < 0)[1]


@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("side", [1, 2, 8])
def test_hadamard_patterns_are_an_orthonormal_basis_of_two_values(side, ordering):
    matrix = hadamard(side**2, side, ordering)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(side**2))
    assert torch.equal(matrix.abs(), torch.full_like(matrix, 1 / side))
    assert torch.equal(matrix[0], torch.full((side**2,), 1 / side))


@pytest.mark.parametrize(
    ("ordering", "count"), [("sequency", changes), ("zigzag", changes), ("cake_cutting", areas)]
)
def test_an_ordering_measures_few_sign_changes_or_few_areas_first(ordering, count):
    patterns = hadamard(64, 8, ordering).numpy().reshape(-1, 8, 8)
    counts = [count(pattern) for pattern in patterns]
    assert counts == sorted(counts)
    assert len(set(counts)) > 10


def test_zigzag_is_the_scan_of_jpeg():
    """The first ten (i, j) of ITU-T T.81, figure 5: right first, then down left."""
    scan = [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0)]
    patterns = hadamard(10, 8, "zigzag").numpy().reshape(-1, 8, 8)
    found = [
        tuple(int((np.diff(np.sign(line)) != 0).sum()) for line in (pattern[:, 0], pattern[0]))
        for pattern in patterns
    ]
    assert found == scan


def test_a_block_that_has_no_hadamard_basis_is_refused():
    sampling = tiny_config(sampling={"phi_init": "hadamard", "block_size": 33}).sampling
    with pytest.raises(ConfigError, match="power of 2, not 33; set sampling.block_size=32 or 64"):
        sampling.make(Source())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ordering": "zigzag"}, "only sampling.phi_init=hadamard has an ordering"),
        ({"phi_init": "hadamard", "ordering": "walsh"}, "'walsh', expected one of sequency, cake"),
        ({"phi_values": "ternary"}, "'ternary', expected one of real, binary, sign, 8bit"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(sampling=changed)


def test_the_ordering_is_the_one_of_the_settings():
    found = {
        name: tiny_config(sampling={"phi_init": "hadamard", "ordering": name}).sampling.make(
            Source()
        )
        for name in ORDERINGS
    }
    for name, operator in found.items():
        assert torch.equal(operator.matrix.detach(), hadamard(operator.measurements, 32, name))


@pytest.mark.parametrize("values", LEARNED)
@pytest.mark.parametrize("start", ["gaussian", "hadamard"])
@pytest.mark.parametrize("phi", ["learned", "fixed"])
def test_phi_has_the_allowed_values_times_one_scale_and_norm_one(values, start, phi):
    changed = {"phi_values": values, "phi_init": start, "phi": phi}
    operator = tiny_config(sampling=changed).sampling.make(Source())
    shown = nearest(operator.matrix.detach() / operator.scale, values)
    assert set(shown.unique().tolist()) <= ALLOWED[values]
    assert torch.equal(operator.matrix, operator.scale * shown)
    assert operator.lipschitz() == pytest.approx(1, rel=1e-4)
    assert [name for name, _ in operator.named_parameters()] == (
        ["patterns"] if phi == "learned" else []
    )


def test_patterns_resemble_the_phi_they_start_from():
    """A row and its pattern have a similar direction; a row of the mean is not dark."""
    matrix = torch.randn(6, 64)
    matrix[0] = -1.0
    for values, least in (("binary", 0.5), ("sign", 0.7), ("8bit", 0.999)):
        patterns, _ = start_patterns(matrix, values)
        shown = nearest(patterns, values)
        assert shown[0].min() > 0.2
        likeness = torch.cosine_similarity(shown[1:], matrix[1:], dim=1).abs()
        assert likeness.min() > least


@pytest.mark.parametrize("values", LEARNED)
def test_a_matrix_of_allowed_values_is_used_unchanged(values):
    matrix = nearest(torch.randn(6, 64), values)
    assert torch.equal(start_patterns(matrix, values)[0], matrix)


@pytest.mark.parametrize("values", LEARNED)
def test_the_gradient_of_phi_reaches_the_real_numbers_unchanged(values):
    scale = torch.tensor(0.5)
    operator = PatternSampling(torch.randn(5, 16), scale, values, block_size=4)
    weight = torch.randn(5, 16)
    (operator.matrix * weight).sum().backward()
    torch.testing.assert_close(operator.patterns.grad, scale * weight)
    part = operator.first(2)
    assert torch.equal(part.matrix, operator.matrix[:2])


@pytest.fixture
def images(tmp_path):
    import cv2

    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(3):
        cv2.imwrite(str(folder / f"{k}.png"), smooth_image(64, 80, k))
    return folder


@pytest.mark.parametrize("values", LEARNED)
def test_a_run_changes_patterns_and_saves_what_is_shown(images, tmp_path, values):
    config = tiny_config(
        images,
        sampling={"phi_values": values, "ratio": [0.05, 0.2], "noise_std": 0.01},
        training={"rate": 0.05, "ema": 0.5},
        data={"source": "device"},
    )
    train(config, tmp_path / "run", CPU)
    for name in ("last", "ema"):
        path = tmp_path / "run" / f"{name}.safetensors"
        state = load_file(path)
        assert "operator.matrix" not in state
        assert set(state["operator.patterns"].unique().tolist()) <= ALLOWED[values]
    operator = Weights(path).load().operator
    assert torch.equal(operator.matrix, operator.scale * load_file(path)["operator.patterns"])
    assert Weights(path).metadata["phi_sha256"] == operator.fingerprint()
    start = config.sampling.make(Source(seed=config.training.seed)).weights()["patterns"]
    assert not torch.equal(start, operator.weights()["patterns"])


def test_a_run_with_patterns_resumes_to_the_bit(images, tmp_path, monkeypatch):
    config = tiny_config(images, sampling={"phi_values": "sign"}, data={"source": "device"})
    train(config, tmp_path / "whole", CPU)
    train_steps(config, tmp_path / "parts", 3, monkeypatch)
    train(config, tmp_path / "parts", CPU, resume=True)
    states = [
        torch.load(tmp_path / f / "last.pt", weights_only=True)["model"] for f in ("whole", "parts")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(
        states[0]["operator.patterns"], nearest(states[0]["operator.patterns"], "sign")
    )


@pytest.mark.parametrize(
    ("values", "other"), [("binary", 0.5), ("sign", 0.0), ("8bit", 1.0), ("binary", -1.0)]
)
def test_weights_with_other_values_are_refused(tmp_path, values, other):
    config = tiny_config(sampling={"phi_values": values})
    path = tmp_path / "w" / "model.safetensors"
    save_weights(path, build_model(config), config)
    state, metadata = load_file(path), dict(Weights(path).metadata)
    state["operator.patterns"][3, 4] = other
    save_file(state, path, {k: v for k, v in metadata.items() if k != "content_sha256"})
    with pytest.raises(CheckpointError, match=f"1 other values, such as {other:g}; .*'{values}'"):
        Weights(path).load()


def test_patterns_survive_weights_in_bf16(tmp_path):
    config = tiny_config(sampling={"phi_values": "8bit"})
    model = build_model(config)
    path = tmp_path / "w" / "model.safetensors"
    save_weights(path, model, config, precision=torch.bfloat16)
    loaded = Weights(path).load().operator
    assert torch.equal(loaded.patterns, model.operator.weights()["patterns"])
