"""Pictures of a spectral camera: what is read, what is refused, and the command."""

import json

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from lgmnet.conversion import ConfigError
from lgmnet.models import GAPTV
from lgmnet.operators import CodedAperture
from lgmnet.weights.snapshot import model_of_camera, read_snapshot
from tests.test_scripts import run_main

CONFIG = "configs/cassi_gap_tv.yaml"
OVERRIDES = ("sampling.bands=4", "model.iterations=5")


@pytest.fixture
def camera(tmp_path):
    """A mask of 10 x 12 pixels as a file, and its operator for 4 bands."""
    mask = np.random.default_rng(0).random((10, 12))
    savemat(tmp_path / "mask.mat", {"mask": mask})
    return str(tmp_path / "mask.mat"), CodedAperture(torch.from_numpy(mask).float(), 4, 2)


def picture(operator):
    return operator(torch.rand(1, 4, 10, 12))


def test_the_command_rebuilds_what_gap_tv_rebuilds(camera, tmp_path, monkeypatch, capsys):
    mask, operator = camera
    y, out = picture(operator), tmp_path / "cube.npy"
    savemat(tmp_path / "y.mat", {"meas_real": y[0, 0].numpy(), "other": np.zeros(3)})
    arguments = [tmp_path / "y.mat", "--mask", mask, "--output", out, *OVERRIDES]
    assert run_main("scripts/reconstruct_cube.py", arguments, monkeypatch) == 0
    expected = GAPTV(iterations=5)(y, operator).image[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(np.load(out), expected, rtol=1e-4, atol=1e-5)
    residual = float((operator(GAPTV(iterations=5)(y, operator).image) - y).norm() / y.norm())
    assert f"residual |Φx - y| / |y|: {residual:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((10, 16)), "has 10 x 16 pixels, expected 10 x 18: the mask has 10 x 12"),
        (np.zeros((18, 10)), "it seems to be turned: transpose it"),
        (np.zeros((10, 18, 4)), r"float64 of shape \(10, 18, 4\), expected numbers of shape"),
        (np.full((10, 18), np.nan), "below 0 or not finite"),
        (-np.ones((10, 18)), "below 0 or not finite"),
        (np.full((10, 18), "a"), "expected numbers of shape"),
    ],
)
def test_what_is_no_picture_of_this_camera_is_refused(array, message, camera, tmp_path):
    np.save(tmp_path / "y.npy", array)
    with pytest.raises(ValueError, match=message):
        read_snapshot(tmp_path / "y.npy", camera[1])


def test_weights_of_another_problem_are_refused(camera):
    with pytest.raises(ConfigError, match="measures with BlockSampling, expected"):
        model_of_camera("lgm_net_tiny_r0.10", camera[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.mat", None, "sampling.mask: there is no mask at"),
        ("cube.npy", np.ones((10, 12, 4)), r"the mask has shape \(10, 12, 4\), expected \(H, W\)"),
        ("bright.npy", np.full((10, 12), 255), "divide by the value of an open pixel"),
    ],
)
def test_what_is_no_mask_is_refused(name, content, message, tmp_path):
    if content is not None:
        np.save(tmp_path / name, content)
    with pytest.raises(ConfigError, match=message):
        model_of_camera(CONFIG, str(tmp_path / name), OVERRIDES)


def test_the_command_explains_errors(camera, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "y.npy", np.zeros((10, 16)))
    arguments = [tmp_path / "y.npy", "--mask", camera[0], "--output", tmp_path / "x.npy"]
    assert run_main("scripts/reconstruct_cube.py", [*arguments, *OVERRIDES], monkeypatch) == 1
    assert "reconstruct_cube.py: the measurement in" in capsys.readouterr().err
    arguments[-1] = tmp_path / "x.png"
    assert run_main("scripts/reconstruct_cube.py", [*arguments, *OVERRIDES], monkeypatch) == 1
    assert "expected a name such as cube.npy" in capsys.readouterr().err


def test_the_figure_has_a_row_for_each_cube_and_measurement(camera, tmp_path, monkeypatch):
    mask, operator = camera
    np.save(tmp_path / "y.npy", picture(operator)[0, 0].numpy())
    np.savez(tmp_path / "cube.npz", cube=np.random.default_rng(0).random((10, 12, 4)))
    out = tmp_path / "out.png"
    given = ["--measurements", tmp_path / "y.npy", "--mask", mask, "--output", out]
    settings = ["--overrides", *OVERRIDES, f"sampling.mask={mask}", "sampling.size=[10,12]"]
    arguments = [*given, "--cubes", tmp_path / "cube.npz", *settings]
    assert run_main("scripts/make_cube_figure.py", arguments, monkeypatch) == 0
    height, width = cv2.imread(str(out)).shape[:2]
    assert (height, width) == (2 * 240, 5 * 240)


def test_the_figure_has_a_column_for_each_method(camera, tmp_path, monkeypatch):
    """Of a real camera there is no cube, and so no error."""
    mask, operator = camera
    np.save(tmp_path / "y.npy", picture(operator)[0, 0].numpy())
    out = tmp_path / "out.png"
    arguments = ["--measurements", tmp_path / "y.npy", "--mask", mask, "--output", out]
    arguments += ["--weights", CONFIG, CONFIG, "--overrides", *OVERRIDES]
    assert run_main("scripts/make_cube_figure.py", arguments, monkeypatch) == 0
    assert cv2.imread(str(out)).shape[:2] == (240, 4 * 240)


def test_the_figure_needs_something_to_draw(monkeypatch, capsys, tmp_path):
    out = tmp_path / "out.png"
    assert run_main("scripts/make_cube_figure.py", ["--output", out], monkeypatch) == 1
    assert "give --cubes or --measurements" in capsys.readouterr().err
    np.save(tmp_path / "y.npy", np.zeros((2, 2)))
    arguments = ["--measurements", tmp_path / "y.npy", "--output", out]
    assert run_main("scripts/make_cube_figure.py", arguments, monkeypatch) == 1
    assert "need the --mask of their camera" in capsys.readouterr().err


def test_weights_are_scored_with_another_mask(camera, tmp_path, monkeypatch):
    """As with a config that names the mask."""
    mask, _ = camera
    np.savez(tmp_path / "cube.npz", cube=np.random.default_rng(1).random((10, 12, 4)))
    settings = ("sampling.bands=4", "model.iterations=3")
    drawn = ("sampling.mask=random", "sampling.size=[8,8]")
    for name, arguments in (
        ("there", [*settings, f"sampling.mask={mask}"]),
        ("here", [*settings, *drawn, "--mask", mask]),
    ):
        arguments = [CONFIG, *arguments, "--data", tmp_path / "cube.npz"]
        assert run_main("test.py", [*arguments, "--output", tmp_path / name], monkeypatch) == 0
    read = [
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("here", "there")
    ]
    here, there = ((one["phi_sha256"], one["datasets"]["cube"]["psnr"]) for one in read)
    assert here == there


def test_a_mask_is_refused_for_other_problems(camera, monkeypatch, capsys):
    assert run_main("test.py", ["lgm_net_tiny_r0.10", "--mask", camera[0]], monkeypatch) == 1
    assert "measures with BlockSampling, expected sampling.operator=co" in capsys.readouterr().err
