"""Bad input on the command line: one clear message, exit code 1, and no traceback.

Cubes: tests/test_coded_aperture.py. Numbers of a camera: tests/test_camera.py.
"""

import re

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lgmnet.build import build_model
from lgmnet.weights.saved import save_weights
from lgmnet.weights.tensor_files import with_content_hash
from tests.conftest import smooth_image, tiny_config
from tests.test_scripts import run_main

KERNELS = {
    "double": np.full((5, 5), 2 / 25),
    "even": np.full((4, 4), 1 / 16),
    "large": np.full((81, 81), 1 / 81**2),
    "nan": np.full((5, 5), np.nan),
    "flat": np.full(5, 1 / 5),
    "small": np.full((5, 5), 1 / 25),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two photographs, kernels, and a network to train, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for k in range(2):
        pixels = np.dstack([smooth_image(50, 70, 3 * k + c) for c in range(3)])
        cv2.imwrite(f"photos/{k}.png", pixels)
    for name, kernel in KERNELS.items():
        np.save(f"{name}.npy", kernel)
    return tmp_path


def refused(script, arguments, message, monkeypatch, capsys):
    """The script ends with exit code 1 and one line that contains the message."""
    assert run_main(script, arguments, monkeypatch) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert sum(line.startswith(script.split("/")[-1]) for line in error.splitlines()) == 1


SR = ["configs/sr_bicubic.yaml", "sampling.kernel_numbers=[1]"]
BAD_KERNELS = [
    ("sampling.kernels=double.npy", "double.npy, kernel 1: .* sum to 2, expected 1"),
    ("sampling.kernels=even.npy", "4 x 4 pixels, expected odd numbers"),
    ("sampling.kernels=nan.npy", "sum to nan, expected 1"),
    ("sampling.kernels=flat.npy", r"shape \(5,\), expected \(h, w\) or \(kernels, h, w\)"),
    ("sampling.kernels=none.npy", "no file of kernels at none.npy"),
    ("sampling.kernel_numbers=[9]", "kernel 9, but gaussian has 8"),
    ("sampling.scale=5", "sampling.scale is 5, expected 1, 2, 3 or 4"),
]


@pytest.mark.parametrize(("setting", "message"), BAD_KERNELS)
def test_kernels_that_are_none_are_refused(setting, message, folder, monkeypatch, capsys):
    refused("test.py", [*SR, setting, "--data", "photos"], message, monkeypatch, capsys)
    train = ["configs/sr_lorun.yaml", *SR[1:], setting, "data.train=photos", "data.validation="]
    train.append("data.crop_size=48")
    refused("train.py", [*train, "--output", "run"], message, monkeypatch, capsys)
    assert not (folder / "run").exists()


def test_a_kernel_larger_than_the_image_is_refused(folder, monkeypatch, capsys):
    message = "the kernel has 81 x 81 pixels .*, but the image only 48 x 69"
    arguments = [*SR, "sampling.kernels=large.npy", "--data", "photos"]
    refused("test.py", arguments, message, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.crop_size=32", "data.crop_size is 32, .* multiples of 3; set data.crop_size=33"),
        ("data.crop_size=24", "data.crop_size is 24: the kernel has 25 x 25 pixels"),
    ],
)
def test_crops_that_do_not_fit_are_refused_before_training(
    setting, message, folder, monkeypatch, capsys
):
    arguments = ["configs/sr_lorun.yaml", "sampling.scale=3", setting,
                 "data.train=photos", "data.validation=", "--output", "run"]  # fmt: skip
    refused("train.py", arguments, message, monkeypatch, capsys)


def test_an_image_that_s_does_not_divide_is_cropped(folder, monkeypatch, capsys):
    """50 x 70 at x3 is 48 x 69, as the protocol says: not an error, and no black border."""
    assert run_main("test.py", [*SR, "sampling.scale=3", "--data", "photos"], monkeypatch) == 0


Y = ["--output", "y.safetensors"]
CT = ["configs/ct_fbp.yaml", "sampling.side=16", "sampling.views=null"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sampling.views=0"], "sampling.views is 0, expected at least 1"),
        ([], r"views is None and sampling.angles is \[\]; set one"),
        (["sampling.angles=[0,90,0]"], "the angle 0° is repeated"),
        (["sampling.angles=[10,190]"], "the angle 10° is repeated; angles that differ by 180°"),
        (["sampling.angles=[0,nan]"], "the angle nan is no number"),
        (["sampling.views=9", "sampling.angles=[0]"], "set one of them, .*sampling.views=null"),
        (["sampling.views=9", "sampling.detectors=8"], "8 detectors, expected at least 16"),
    ],
)
def test_angles_that_are_none_or_repeated_are_refused(
    settings, message, folder, monkeypatch, capsys
):
    refused("test.py", [*CT, *settings, "--data", "photos"], message, monkeypatch, capsys)
    train = ["configs/ct_fista_net.yaml", *CT[1:], *settings, "--output", "run"]
    refused("train.py", train, message, monkeypatch, capsys)


@pytest.mark.parametrize("values", ["binary", "sign", "8bit"])
def test_weights_with_other_values_than_the_patterns_are_refused(
    values, folder, monkeypatch, capsys
):
    config = tiny_config(sampling={"phi_values": values})
    save_weights(folder / "w.safetensors", build_model(config), config)
    with safe_open(folder / "w.safetensors", "pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state["operator.patterns"][0, 0] = 0.3
    save_file(state, folder / "w.safetensors", with_content_hash(metadata, state))
    for script, arguments in (
        ("test.py", ["w.safetensors", "--data", "photos"]),
        ("scripts/measure.py", ["photos/0.png", "--weights", "w.safetensors", *Y]),
    ):
        message = f"1 other values, such as 0.3; sampling.phi_values '{values}' expects"
        refused(script, arguments, message, monkeypatch, capsys)


def test_measurements_of_another_phi_are_refused(folder, monkeypatch, capsys):

    assert run_main("scripts/measure.py", ["photos/0.png", *Y], monkeypatch) == 0
    for weights in ("lgm_net_tiny_r0.25", "mri_admm_net_mask_20"):
        arguments = ["y.safetensors", "--weights", weights, "--output", "out.png"]
        message = "the measurement was made with another Φ"
        refused("scripts/reconstruct.py", arguments, message, monkeypatch, capsys)
    np.save("y.npy", np.zeros((6, 100)))
    arguments = ["y.npy", "--size", "64x96", "--output", "out.png"]
    message = r"has 600 numbers of shape \(6, 100\), expected \(6, 103\)"
    refused("scripts/reconstruct.py", arguments, message, monkeypatch, capsys)


def test_a_snapshot_of_another_size_is_refused(folder, monkeypatch, capsys):
    np.save("mask.npy", torch.ones(16, 16).numpy())
    np.save("snapshot.npy", np.ones((16, 30)))
    arguments = ["snapshot.npy", "--mask", "mask.npy", "--output", "cube.npy"]
    message = "has 16 x 30 pixels, expected 16 x 70: the mask has 16 x 16 pixels, and 28 bands"
    refused("scripts/reconstruct_cube.py", arguments, message, monkeypatch, capsys)
