"""A measurement file is not believed."""

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lgmnet.build import build_model
from lgmnet.config import config_from_dict
from lgmnet.operators import masks
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.measurement import (
    load_measurement,
    measure_image,
    reconstruct_image,
    save_measurement,
)
from lgmnet.weights.saved import load, save_weights
from tests.conftest import smooth_image, tiny_config
from tests.test_scripts import run_main


@pytest.fixture
def model():
    return build_model(tiny_config()).eval()


@pytest.fixture
def write(model, tmp_path):
    """A measurement of 50 x 70 pixels with some of its file exchanged."""

    def run(values=None, **metadata):
        measurement = measure_image(model, smooth_image(50, 70), "name")
        content = {
            "format": "lgmnet-measurement/1", "height": "50", "width": "70",
            "phi_sha256": measurement.phi_sha256, **metadata,
        }  # fmt: skip
        content = {key: value for key, value in content.items() if value is not None}
        values = measurement.values if values is None else values
        save_file({"measurement": values}, tmp_path / "y.safetensors", content)
        return tmp_path / "y.safetensors"

    return run


def test_what_is_saved_is_read(model, tmp_path):
    measurement = measure_image(model, smooth_image(50, 70), "name")
    save_measurement(tmp_path / "y.safetensors", measurement)
    loaded = load_measurement(tmp_path / "y.safetensors")
    assert torch.equal(loaded.values, measurement.values)
    assert loaded[1:] == measurement[1:]
    assert reconstruct_image(model, loaded).shape == (50, 70)


@pytest.mark.parametrize("text", [None, "", "0", "-5", "1e3", "5.0", "fifty", "9" * 5000])
@pytest.mark.parametrize("key", ["height", "width"])
def test_a_side_that_is_no_number_of_pixels_is_named(write, key, text):
    with pytest.raises(CheckpointError, match=f"gives the {key} as {text or ''}"):
        load_measurement(write(**{key: text}))


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(1, 103, 0, 0),
        torch.zeros(103, 2, 3),
        torch.zeros(1, 103, 2, 3).half(),
        torch.zeros(1, 103, 2, 3).bool(),
        torch.zeros(1, 103, 2, 3).long(),
    ],
    ids=["no blocks", "no batch", "half", "bool", "whole numbers"],
)
def test_another_type_or_shape_is_named(write, values):
    with pytest.raises(CheckpointError, match=r"holds torch\..*, expected float32 with four axes"):
        load_measurement(write(values))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(write, value):
    values = torch.zeros(1, 103, 2, 3)
    values[0, 50, 1, 1] = value
    with pytest.raises(CheckpointError, match="values that are not finite"):
        load_measurement(write(values))


@pytest.mark.parametrize(
    ("values", "sides"),
    [
        (None, {"height": "65"}),
        (None, {"width": "64"}),
        (None, {"width": "999999999"}),
        (torch.zeros(1, 102, 2, 3), {}),
        (torch.zeros(2, 103, 2, 3), {}),
        (torch.zeros(1, 103, 3, 2), {}),
    ],
)
def test_a_measurement_that_does_not_fit_its_image_or_the_weights_is_refused(
    model, write, values, sides
):
    with pytest.raises(CheckpointError, match=r"the measurement has shape .* makes \(1, 103, "):
        reconstruct_image(model, load_measurement(write(values, **sides)))


def test_a_measurement_that_names_no_phi_is_refused(model, write):
    with pytest.raises(CheckpointError, match=r"another Φ \(none"):
        reconstruct_image(model, load_measurement(write(phi_sha256=None)))


@pytest.mark.parametrize("noise_std", [0.0, 0.1])
def test_it_is_measured_and_rebuilt_where_the_model_is_and_handed_over_on_the_cpu(
    model, noise_std, monkeypatch
):
    """On the meta device, whose tensors have no values; zeros stand for what is copied from it."""
    copied, seen = torch.Tensor.cpu, []

    def cpu(tensor):
        return torch.zeros(tensor.shape) if tensor.is_meta else copied(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(type(model.operator), "fingerprint", lambda self: "the same")
    model = model.to("meta")
    model.noise_std = noise_std
    for module in (model.operator, model.network):
        module.register_forward_pre_hook(lambda _, given: seen.append(given[0].device.type))
    measurement = measure_image(model, smooth_image(50, 70), "name")
    assert measurement.values.device.type == "cpu"
    image = reconstruct_image(model, measurement)
    assert isinstance(image, np.ndarray)
    assert image.shape == (50, 70)
    assert set(seen) == {"meta"}


@pytest.fixture
def mri(tmp_path):
    """Weights that return Φᵀy of complex images at two masks, and a complex image as a file."""
    sampling = {"operator": "fourier_mask", "complex": True, "mask": []}
    for fraction in (0.3, 0.5):
        path = tmp_path / f"m{fraction:g}.npy"
        np.save(path, masks.variable_density((32, 48), fraction).numpy())
        sampling["mask"].append(str(path))
    model = {"name": "admm_csnet", "stages": 1, "channels": 2}
    config = config_from_dict({"model": model, "sampling": sampling})
    save_weights(tmp_path / "w" / "model.safetensors", build_model(config), config)
    random = np.random.default_rng(0)
    image = 0.6 * np.exp(1j * random.uniform(0, 1, (32, 48)))
    np.save(tmp_path / "image.npy", image.astype(np.complex64))
    return tmp_path / "w", tmp_path / "image.npy"


def test_the_pixels_that_padding_adds_are_named(tmp_path, monkeypatch, capsys):
    cv2.imwrite(str(tmp_path / "photo.png"), smooth_image(50, 60))
    arguments = [tmp_path / "photo.png", "--output", tmp_path / "y.safetensors"]
    assert run_main("scripts/measure.py", arguments, monkeypatch) == 0
    shown = "3,000 pixels (with padding 64 x 64) -> 412 numbers (13.7%)"
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(("name", "fraction"), [("m0.3", 0.3), ("m0.5", 0.5)])
def test_any_operator_is_measured_and_reconstructed(
    mri, tmp_path, monkeypatch, capsys, name, fraction
):
    """The file names its mask, so reconstruct.py needs to be told nothing."""
    weights, image = mri
    y, output = tmp_path / "y.safetensors", tmp_path / "out.npy"
    arguments = [image, "--weights", weights, "--at", name, "--output", y]
    assert run_main("scripts/measure.py", arguments, monkeypatch) == 0
    count = int(masks.variable_density((32, 48), fraction).sum()) * 2
    assert f"1,536 pixels -> {count:,} numbers" in capsys.readouterr().out
    arguments = [y, "--weights", weights, "--output", output]
    assert run_main("scripts/reconstruct.py", arguments, monkeypatch) == 0
    model = load(weights, condition=name)
    x = np.load(image)
    x = torch.from_numpy(np.stack([x.real, x.imag]))[None]
    expected = model.reconstruct(model.measure(x))[0]
    np.testing.assert_allclose(np.load(output), expected.permute(1, 2, 0).numpy(), atol=1e-6)
    arguments[-1] = tmp_path / "out.png"
    assert run_main("scripts/reconstruct.py", arguments, monkeypatch) == 0
    picture = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    magnitude = expected.norm(dim=0).clamp(0, 1) * 255
    np.testing.assert_allclose(picture, magnitude.numpy(), atol=0.51)


def test_an_image_that_does_not_fit_the_operator_is_refused(
    mri, photo, tmp_path, monkeypatch, capsys
):
    weights, _ = mri
    arguments = [photo, "--weights", weights, "--output", tmp_path / "y.safetensors"]
    assert run_main("scripts/measure.py", arguments, monkeypatch) == 1
    assert "expected (batch, 2, H, W)" in capsys.readouterr().err
    np.save(tmp_path / "small.npy", np.zeros((32, 40), np.complex64))
    arguments[0] = tmp_path / "small.npy"
    assert run_main("scripts/measure.py", arguments, monkeypatch) == 1
    assert "has 32 x 40 pixels (height x width), but FourierMask" in capsys.readouterr().err
