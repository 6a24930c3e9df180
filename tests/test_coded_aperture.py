"""Spectral snapshot imaging: the operator, its settings, and networks on it."""

import json

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

import lgmnet
from lgmnet.build import Source, build_model
from lgmnet.config import ConfigError, config_from_dict
from lgmnet.data.images import read_pixels
from lgmnet.data.synthetic_cubes import write_cubes
from lgmnet.data.transforms import channels_first
from lgmnet.models import SensingModel
from lgmnet.models.base import Reconstruction, UnfoldingNetwork
from lgmnet.operators import CodedAperture
from lgmnet.weights.saved import save_weights
from tests.conftest import tiny_config
from tests.test_scripts import run_main

DRAWN = {"operator": "coded_aperture", "mask": "random", "size": [8, 12], "bands": 4, "step": 3}
NETWORK = {"name": "admm_csnet", "stages": 1, "channels": 2}


def aperture_config(model=NETWORK, **changes):
    return config_from_dict({"model": model, "sampling": DRAWN | changes})


def operator_of(**changes):
    return aperture_config(**changes).sampling.make(Source())


def test_the_measurement_is_the_sum_of_shifted_bands():
    """One pixel of one band arrives where the band is shifted to, times the mask."""
    mask = torch.rand(5, 6)
    operator = CodedAperture(mask, bands=3, step=2)
    image = torch.zeros(1, 3, 5, 6)
    image[0, 1, 2, 4] = 0.5
    y = operator(image)
    assert y.shape == (1, 1, 5, 10)
    assert y[0, 0, 2, 4 + 2] == 0.5 * mask[2, 4]
    assert y.count_nonzero() == 1


def shift(bands, step, columns):
    """Band k at column step·k of a canvas of zeros."""
    canvas = bands.new_zeros(*bands.shape[:-1], columns)
    for k in range(bands.shape[-3]):
        canvas[..., k, :, step * k : step * k + bands.shape[-1]] = bands[..., k, :, :]
    return canvas


def roll(canvas, step):
    """Band k turned by step·k columns, as a ring."""
    return torch.stack([c.roll(step * k, -1) for k, c in enumerate(canvas.unbind(-3))], -3)


def test_the_wide_canvas_is_the_ring_of_the_public_code():
    """The quadratic step in the shifted domain: x̃ = z̃ + Φᵀ[(y − Φz̃) / (μ + φ)]."""
    mask, columns = torch.rand(5, 6).double(), 12
    phi = shift(mask.expand(4, 5, 6), 2, columns)
    image = torch.rand(1, 4, 5, columns).double()
    y = torch.rand(1, 1, 5, columns).double()
    shifted = roll(image, 2)
    correction = (y - (phi * shifted).sum(1, keepdim=True)) / (0.3 + phi.square().sum(0))
    expected = roll(shifted + phi * correction, -2)
    operator = CodedAperture(mask, 4, 2, "roll310").on_canvas()
    found = operator.solve(image, 0.3, operator.adjoint(y))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(operator(image), (phi * shifted).sum(1, keepdim=True))


class Sees(UnfoldingNetwork):
    """Φᵀy plus one; it keeps the width that it works on."""

    any_channels = True

    def forward(self, measurement, operator):
        image = operator.adjoint(measurement) + 1
        self.width = image.shape[3]
        return Reconstruction(image)

    def stages(self):
        return ()


@pytest.mark.parametrize(("canvas", "width"), [("crop256", 12), ("roll310", 21)])
def test_a_network_works_on_the_canvas_and_gives_the_image(canvas, width):
    operator, network = operator_of(canvas=canvas), Sees()
    model = SensingModel(operator, network)
    image = torch.rand(2, 4, 8, 12)
    y = model.measure(image)
    for found in (model(image).image, model.reconstruct(y)):
        assert network.width == width
        assert torch.equal(found, operator.adjoint(y) + 1)


@pytest.mark.parametrize("canvas", ["crop256", "roll310"])
def test_the_canvas_measures_alike(canvas):
    assert operator_of(canvas=canvas).fingerprint() == operator_of().fingerprint()


def test_another_mask_step_or_number_of_bands_measures_differently():
    prints = {
        operator_of(**changes).fingerprint()
        for changes in ({}, {"mask_seed": 1}, {"step": 1}, {"bands": 3})
    }
    assert len(prints) == 4


def test_a_pixel_without_light_does_not_become_nan():
    mask = torch.zeros(3, 4)
    mask[0] = 1
    operator = CodedAperture(mask, 2, 1)
    image = torch.rand(1, 2, 3, 4)
    y = operator(torch.rand(1, 2, 3, 4)) + 1  # also where no light arrives
    for found in (operator.project(image, y), operator.solve(image, 0.1, operator.adjoint(y))):
        assert found.isfinite().all()
        assert torch.equal(found[:, :, 1:], image[:, :, 1:])


def test_solve_keeps_float32_accuracy_for_a_small_weight():
    operator, image = operator_of(), torch.rand(1, 4, 8, 12)
    back = operator.adjoint(operator(torch.rand(1, 4, 8, 12)))
    exact = operator.double().solve(image.double(), 1e-5, back.double())
    torch.testing.assert_close(operator.float().solve(image, 1e-5, back), exact.float())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(4),), r"the mask has shape \(4,\), expected \(H, W\)"),
        ((2 * torch.ones(4, 4),), "values from 2 to 2, expected 0 .no light passes. to 1"),
        ((-torch.rand(4, 4),), "expected 0"),
        ((torch.full((4, 4), torch.nan),), "values from nan to nan"),
        ((torch.zeros(4, 4),), "no light passes; give another mask"),
        ((torch.rand(4, 4), 0), "bands is 0, expected at least 1"),
        ((torch.rand(4, 4), 2, 0), "step is 0"),
        ((torch.rand(4, 4), 2, 1, "ring"), "canvas is 'ring', expected one of crop256, roll310"),
    ],
)
def test_what_is_no_aperture_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CodedAperture(*arguments)


def test_images_and_measurements_that_do_not_fit_are_refused():
    operator = operator_of()
    with pytest.raises(ValueError, match=r"shape \(1, 8, 12, 4\), expected \(batch, 4, H, W\)"):
        operator(torch.rand(1, 8, 12, 4))  # bands last
    with pytest.raises(ValueError, match=r"shape \(1, 3, 8, 12\), expected \(batch, 4"):
        operator(torch.rand(1, 3, 8, 12))
    with pytest.raises(ValueError, match="CodedAperture measures images of 8 x 12"):
        operator(torch.rand(1, 4, 8, 16))
    with pytest.raises(ValueError, match=r"expected \(batch, 1, 8, 21\): .* set bands and step"):
        operator.adjoint(torch.rand(1, 1, 8, 18))  # of step 2
    with pytest.raises(ValueError, match="weight of a quadratic step is 0"):
        operator.solve(torch.rand(1, 4, 8, 12), 0, torch.rand(1, 4, 8, 12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canvas": "crop"}, "sampling.canvas is 'crop', expected one of crop256, roll310"),
        ({"bands": 0}, "sampling.bands is 0"),
        ({"step": 0}, "sampling.step is 0"),
        ({"size": [8]}, r"sampling.size is \[8\], expected \[H, W\]"),
        ({"size": []}, r"sampling.mask is random, which needs sampling.size=\[H,W\]"),
        ({"fraction": 0}, "sampling.fraction is 0.0, expected 0 < fraction <= 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        aperture_config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": "nowhere.mat"}, "sampling.mask: there is no mask at nowhere.mat"),
        ({"mask": "coded"}, "sampling.mask: it is 'coded', expected a file, or random"),
    ],
)
def test_masks_that_cannot_be_made_are_explained(changes, message):
    with pytest.raises(ConfigError, match=message):
        operator_of(**changes)


def test_the_mask_of_a_file_is_cropped_to_the_size(tmp_path):
    mask = np.random.default_rng(0).random((10, 12))
    savemat(tmp_path / "m.mat", {"mask": mask, "other": 1.0})
    file = str(tmp_path / "m.mat")
    whole, part = operator_of(mask=file, size=[]), operator_of(mask=file, size=[8, 9])
    assert whole.size == (10, 12)
    assert torch.equal(part.mask, whole.mask[:8, :9])
    assert np.array_equal(whole.mask.numpy(), mask.astype(np.float32))
    with pytest.raises(ConfigError, match="has 10 x 12 pixels, but sampling.size is 16 x 9"):
        operator_of(mask=file, size=[16, 9])
    np.savez(tmp_path / "text.npz", mask=np.array([["a"]]))
    with pytest.raises(ConfigError, match="has type <U1, expected numbers"):
        operator_of(mask=str(tmp_path / "text.npz"))


def test_a_drawn_mask_has_its_fraction_and_depends_on_its_seed():
    first, again, other = (operator_of(size=[64, 64], mask_seed=k).mask for k in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(operator_of(size=[64, 64], fraction=0.3).mask.mean()) == pytest.approx(
        0.3, abs=0.03
    )
    assert set(first.unique().tolist()) == {0, 1}


def test_sizes_conditions_and_picture():
    settings = aperture_config().sampling
    operator = settings.make(Source())
    assert settings.sizes() == operator.sizes() == {"image_channels": 4}
    assert settings.conditions == (settings.label,) == ("random",)
    assert settings.smallest == 8
    assert torch.equal(operator.picture(), operator.mask)


def test_weights_hold_their_mask(tmp_path):
    np.save(tmp_path / "m.npy", np.random.default_rng(0).random((8, 12)))
    config = aperture_config(mask=str(tmp_path / "m.npy"), size=[])
    model = build_model(config).eval()
    save_weights(tmp_path / "w" / "model.safetensors", model, config)
    (tmp_path / "m.npy").unlink()
    loaded = lgmnet.load(tmp_path / "w" / "model.safetensors")
    assert loaded.operator.fingerprint() == model.operator.fingerprint()
    image = torch.rand(1, 4, 8, 12)
    assert torch.equal(loaded(image).image, model(image).image)


@pytest.fixture
def cubes(tmp_path):
    write_cubes(tmp_path / "cubes", 3, (32, 32), bands=4)
    return tmp_path / "cubes"


def small_run(cubes, model, **training):
    config = tiny_config(cubes).as_dict()
    config["model"] = model
    config["sampling"] = DRAWN | {"size": [32, 32], "step": 2, "noise_std": 0.01}
    config["data"] |= {"crop_size": 32, "color": "bands"}
    config["evaluation"] |= {"color": "bands", "protocol": "cassi", "datasets": [str(cubes)]}
    config["training"] |= training
    return config_from_dict(config)


@pytest.mark.parametrize("canvas", ["crop256", "roll310"])
@pytest.mark.parametrize(
    "options",
    [
        NETWORK,
        {"name": "lorun", "stages": 2, "width": 8, "algorithm": "hqs", "noise_channel": "map"},
        {"name": "lorun", "stages": 2, "width": 8, "algorithm": "pgd", "sharing": "shared"},
    ],
)
def test_networks_on_bands(options, canvas):
    model = build_model(aperture_config(options, canvas=canvas))
    image = torch.rand(2, 4, 8, 12)
    found = model(image).image
    assert found.shape == image.shape
    found.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    alone = model(image[1:]).image
    torch.testing.assert_close(found[1:], alone, rtol=1e-4, atol=1e-5)


def test_a_network_of_one_channel_refuses_bands():
    with pytest.raises(ConfigError, match="lgm_net reconstructs images of one channel"):
        build_model(aperture_config({"name": "lgm_net", "D": 1, "dim": 2, "dimf": 2}))


def test_lorun_learns_on_bands_and_is_scored(cubes, tmp_path, monkeypatch):
    """Two phases, a measurement as a file, and the image from it."""
    model = {"name": "lorun", "stages": 2, "width": 8, "algorithm": "hqs", "gamma": 50,
             "noise_channel": "map"}  # fmt: skip
    config = small_run(cubes, model, epochs=1, steps_per_epoch=20, batch_size=2, rate=1e-2)
    (tmp_path / "c.yaml").write_text(config.as_yaml())
    run = tmp_path / "run"

    def command(script, *arguments):
        assert run_main(script, arguments, monkeypatch) == 0

    command("train.py", tmp_path / "c.yaml", "--output", run)
    command("test.py", run, "--data", cubes)
    [metrics] = run.rglob("metrics.json")
    trained = json.loads(metrics.read_text())["datasets"]["cubes"]["psnr"]
    start = build_model(config_from_dict(config.as_dict() | {"model": {"name": "back_projection"}}))
    images = torch.stack([channels_first(read_pixels(path)) for path in sorted(cubes.iterdir())])
    error = (start(images).image - images).square().mean()
    assert trained > 10 - 10 * float(error.log10())

    y, rebuilt = tmp_path / "y.safetensors", tmp_path / "x.npy"
    command("scripts/measure.py", cubes / "synthetic_000.npz", "--output", y, "--weights", run)
    command("scripts/reconstruct.py", y, "--output", rebuilt, "--weights", run)
    assert np.load(rebuilt).shape == (32, 32, 4)


@pytest.mark.shared
@pytest.mark.parametrize("scene", [1, 5])
def test_a_real_camera_shifts_as_the_operator_does(scene, reference):
    """Red light dominates both scenes, so the structure of the mask is in y where band 26 lies."""
    folder = reference.parent / "cassi/real"
    mask = torch.from_numpy(loadmat(folder / "tsa_real_mask660.mat")["mask"])
    y = torch.from_numpy(loadmat(folder / f"tsa_real_scene{scene}.mat")["meas_real"])[None, None]
    smooth = torch.nn.functional.avg_pool2d(y, 9, 1, 4, count_include_pad=False)
    structure = (y - smooth) / (smooth + 0.02)
    strength = [
        CodedAperture(each, 28, 2).adjoint(structure).mean((0, 2, 3))
        for each in (mask, mask.flip(0), mask.flip(1))
    ]
    assert int(strength[0].argmax()) == 26
    assert all(float(strength[0].max()) > 5 * float(other.max()) for other in strength[1:])


def turned(cube, into, axis=0):
    """The file of a cube, with its bands as another axis."""
    into.mkdir()
    with np.load(cube) as content:
        bands = np.moveaxis(content["cube"], 2, axis)
        np.savez(into / cube.name, cube=bands, scale=content["scale"])
    return into


def score_of(data, monkeypatch, *overrides):
    settings = ["sampling.mask=random", "sampling.size=[32,32]", "sampling.bands=4"]
    arguments = ["configs/cassi_gap_tv.yaml", *settings, "model.iterations=2", *overrides]
    return run_main("test.py", [*arguments, "--data", data], monkeypatch)


def test_cubes_that_do_not_fit_are_named(cubes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = turned(cubes / "synthetic_000.npz", tmp_path / "first")
    second = turned(cubes / "synthetic_000.npz", tmp_path / "second", axis=1)
    for data, overrides, message in (
        (first, (), "images of 32 channels, but CodedAperture measures images of 4; the first axis "
         "has 4, but bands are the last axis: transpose the files"),
        (second, (), "the second axis has 4, but bands are the last axis: transpose the files"),
        (cubes, ("sampling.bands=5",), "images of 4 channels, but CodedAperture measures images "
         "of 5; use cubes of 5 bands, or set sampling.bands=4"),
        (cubes, ("sampling.size=[32,48]",), "has 32 x 32 pixels, but CodedAperture measures 32 x "
         "48; use images of that size"),
    ):  # fmt: skip
        assert score_of(data, monkeypatch, *overrides) == 1
        assert message in capsys.readouterr().err


def test_training_cubes_that_do_not_fit_are_named(cubes, tmp_path, monkeypatch, capsys):
    first = turned(cubes / "synthetic_000.npz", tmp_path / "first")
    config = small_run(cubes, NETWORK, epochs=1, steps_per_epoch=1)
    (tmp_path / "c.yaml").write_text(config.as_yaml())
    for changes, message in (
        ([f"data.train={first}"], "is too small: 4 x 32 pixels, 32 bands (the last axis)"),
        (["sampling.bands=5"], "data.color=bands gives images of 4 channels, but CodedAperture"),
        (["data.crop_size=16"], "data.crop_size is 16, but CodedAperture measures images of 32"),
    ):
        arguments = [tmp_path / "c.yaml", *changes, "data.validation=", "--output", tmp_path / "r"]
        assert run_main("train.py", arguments, monkeypatch) == 1
        assert message in capsys.readouterr().err
