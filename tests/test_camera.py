"""A simulated camera: its numbers, in any order, give the image that the network gives."""

import itertools
import json
import re
import shlex

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from lgmnet.build import Source, build_model
from lgmnet.config import config_from_dict
from lgmnet.operators import BlockSampling, matrices
from lgmnet.operators.hadamard import hadamard
from lgmnet.weights.camera import Layout, arrange, read_values
from lgmnet.weights.own_phi import read_own_matrix
from lgmnet.weights.saved import find_weights, load, save_weights
from tests.conftest import PROJECT, smooth_image, tiny_config
from tests.test_scripts import run_main

PAGE = PROJECT / "docs" / "own-camera.md"
SIZE = (64, 96)


def camera(image, matrix, side, layout):
    """What a detector reads for every pattern and block, by loops; an image in [0, 1]."""
    height, width = image.shape
    corners = list(itertools.product(range(0, height, side), range(0, width, side)))
    if layout.column_major:
        corners = [(top, left) for left, top in itertools.product(
            range(0, width, side), range(0, height, side))]  # fmt: skip
    if layout.pairs == "none":
        shown = list(matrix)
    else:
        plus, minus = np.maximum(matrix, 0), np.maximum(-matrix, 0)
        pairs = zip(plus, minus, strict=True)
        shown = [*itertools.chain(*pairs)] if layout.pairs == "alternating" else [*plus, *minus]
    table = [
        [
            layout.dark + layout.white * float(
                (image[top : top + side, left : left + side].ravel() * pattern).sum())
            for pattern in shown
        ]
        for top, left in corners
    ]  # fmt: skip
    table = np.array(table)
    return table if layout.order == "blocks" else table.T


LAYOUTS = [
    Layout(order=order, pairs=pairs, column_major=column_major, dark=3.0, white=7.0)
    for order in ("blocks", "patterns")
    for pairs in ("none", "alternating", "halves")
    for column_major in (False, True)
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_numbers_in_any_order_are_the_measurement(layout):
    image = smooth_image(*SIZE).astype(np.float64) / 255
    matrix = np.random.default_rng(0).normal(size=(5, 256))
    values = camera(image, matrix, 16, layout)
    y = arrange(values, 5, (4, 6), layout)
    assert torch.equal(y, arrange(values.ravel(), 5, (4, 6), layout))
    expected = np.zeros((1, 5, 4, 6))
    for row, column in np.ndindex(4, 6):
        block = image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        expected[0, :, row, column] = matrix @ block.ravel()
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ending", ["csv", "txt", "npy", "mat"])
def test_files_of_numbers_are_read(ending, tmp_path):
    values, path = np.random.default_rng(0).normal(size=(6, 4)), tmp_path / f"y.{ending}"
    if ending == "npy":
        np.save(path, values)
    elif ending == "mat":
        savemat(path, {"y": values})
    else:
        np.savetxt(path, values, delimiter={"csv": ";", "txt": "\t"}[ending])
    np.testing.assert_allclose(read_values(path), values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3\n", "equally many in every line"),
        ("time,y\n1,2\n", "expected numbers only"),
        ("", "expected real numbers"),
        ("1,nan\n", "contains NaN"),
    ],
)
def test_a_file_that_holds_no_table_of_numbers_is_refused(text, message, tmp_path):
    (tmp_path / "y.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_values(tmp_path / "y.csv")


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_an_own_matrix_is_read_transposed_and_by_columns(kind, tmp_path):
    matrix = np.random.default_rng(0).integers(0, 2, (5, 4, 4)).astype(kind)
    rows = matrix.reshape(5, 16)
    for values, column_major in (
        (rows, False),
        (rows.T, False),
        (matrix.transpose(0, 2, 1).reshape(5, 16), True),
    ):
        np.save(tmp_path / "phi.npy", values)
        read = read_own_matrix(tmp_path / "phi.npy", column_major)
        np.testing.assert_array_equal(read.numpy(), rows.astype(np.float32))


@pytest.mark.parametrize("matrix", [np.ones((3, 15)), np.zeros((3, 16))])
def test_a_matrix_that_is_no_phi_is_refused(matrix, tmp_path):
    np.save(tmp_path / "phi.npy", matrix)
    with pytest.raises(ValueError, match=r"expected \(m, B²\)"):
        read_own_matrix(tmp_path / "phi.npy")


@pytest.mark.parametrize(
    ("values", "layout", "message"),
    [
        (np.zeros(23), Layout(), r"has 23 numbers .* expected \(4, 6\): 6 patterns, and 2 x 2"),
        (np.zeros((6, 4)), Layout(), "check --size, --order and --pairs"),
        (np.zeros(24), Layout(pairs="halves"), "6 patterns as pairs"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(values, layout, message):
    with pytest.raises(ValueError, match=message):
        arrange(values, 6, (2, 2), layout)


@pytest.fixture
def scene(tmp_path):
    """A folder with the readings of the shipped weights' Φ, in another unit; their image."""
    image = smooth_image(*SIZE)
    matrix = load("lgm_net_tiny_r0.10").operator.matrix.detach().numpy().astype(np.float64)
    np.save(tmp_path / "phi.npy", 100 * matrix.T)
    layout = Layout(pairs="alternating", white=2.0, dark=5.0)
    values = camera(image / 255.0, 100 * matrix, 32, layout)
    np.savetxt(tmp_path / "detector.csv", values, delimiter=",")
    return tmp_path, image


def rebuilt(folder, monkeypatch, *options):
    output = folder / "out.npy"
    arguments = [folder / "detector.csv", "--size", "64x96", "--output", output, *options]
    assert run_main("scripts/reconstruct.py", arguments, monkeypatch) == 0
    return np.load(output)


OPTIONS = ["--pairs", "alternating", "--white", "2", "--dark", "5"]


def test_a_scaled_and_transposed_phi_of_the_weights_is_recognised(scene, monkeypatch, capsys):
    folder, image = scene
    found = rebuilt(folder, monkeypatch, "--matrix", folder / "phi.npy", *OPTIONS)
    assert "another Φ" not in capsys.readouterr().err
    model = load("lgm_net_tiny_r0.10")
    tensor = torch.from_numpy(image / 255.0).float()[None, None]
    expected = model.reconstruct(model.measure(tensor))[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_weights_of_a_scaled_phi_take_readings_of_the_original_one(tmp_path, monkeypatch, capsys):
    """‖Φ‖₂ is about 42. The weights hold Φ / ‖Φ‖₂; the camera shows Φ; nobody gives the factor."""
    matrix = np.random.default_rng(0).choice([-1, 1], size=(103, 1024)).astype(np.int8)
    np.save(tmp_path / "phi.npy", matrix)
    config = config_from_dict(tiny_config().as_dict() | {"sampling": {
        "ratio": 0.1, "phi_init": str(tmp_path / "phi.npy"), "phi": "fixed", "phi_scale": "unit",
    }})  # fmt: skip
    model = build_model(config, Source()).eval()
    save_weights(tmp_path / "w.safetensors", model, config)
    image = smooth_image(*SIZE)
    values = camera(image / 255.0, matrix.astype(float), 32, Layout())
    np.savetxt(tmp_path / "detector.csv", values, delimiter=",")
    options = ["--matrix", tmp_path / "phi.npy", "--weights", tmp_path / "w.safetensors"]
    found = rebuilt(tmp_path, monkeypatch, *options)
    assert "another Φ" not in capsys.readouterr().err
    y = model.measure(torch.from_numpy(image / 255.0).float()[None, None])
    assert np.abs(values).max() > 20 * y.abs().max()
    np.testing.assert_allclose(found, model.reconstruct(y)[0, 0].numpy(), atol=1e-4)


def test_another_phi_is_used_with_a_warning(scene, monkeypatch, capsys):
    folder, image = scene
    matrix = matrices.orthonormal(103, 1024, torch.Generator().manual_seed(0)).double().numpy()
    np.save(folder / "phi.npy", matrix)
    values = camera(image / 255.0, matrix, 32, Layout())
    np.savetxt(folder / "detector.csv", values, delimiter=",")
    rebuilt(folder, monkeypatch, "--matrix", folder / "phi.npy")
    assert "trained for another Φ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--size is None, expected height x width"),
        (["--size", "64x90"], "not in whole blocks of 32 x 32"),
        (["--size", "64x96"], r"expected \(6, 103\)"),
        (["--size", "64x96", "--order", "rows"], "expected one of blocks, patterns"),
        (["--size", "64x96", "--white", "0"], "white > 0"),
        (["--size", "64x96", "--matrix", "none.npy"], "there is no sampling matrix at none.npy"),
        (["--size", "64x96", "--weights", "configs/ct_fbp.yaml"], "need block sampling"),
    ],
)
def test_mistakes_get_one_line(options, message, scene, monkeypatch, capsys):
    arguments = [scene[0] / "detector.csv", "--output", scene[0] / "out.png", *options]
    assert run_main("scripts/reconstruct.py", arguments, monkeypatch) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_network_with_parts_of_its_own_phi_is_refused(scene, monkeypatch, capsys):
    folder, _ = scene
    tree = tiny_config().as_dict() | {"model": {"name": "ista_net", "stages": 1}}
    config = config_from_dict(tree)
    model = build_model(config)
    for tensor in model.state_dict().values():
        tensor.nan_to_num_()  # a part that was not fitted
    save_weights(folder / "w.safetensors", model, config)
    np.save(folder / "phi.npy", matrices.orthonormal(103, 1024).numpy())
    arguments = [folder / "detector.csv", "--size", "64x96", "--matrix", folder / "phi.npy"]
    more = ["--weights", folder / "w.safetensors", "--output", "x.png", *OPTIONS]
    assert run_main("scripts/reconstruct.py", [*arguments, *more], monkeypatch) == 1
    assert "made for their own Φ" in capsys.readouterr().err


def scores(folder, name, monkeypatch, *options):
    """metrics.json of test.py with these options, on the photograph of a folder."""
    output = folder / name
    arguments = [*options, "--data", folder / "photo.png", "--output", output]
    assert run_main("test.py", arguments, monkeypatch) == 0
    found = json.loads((output / "metrics.json").read_text())
    return found, found["datasets"]["photo"]["psnr"]


@pytest.fixture
def photo(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), smooth_image(*SIZE))
    return tmp_path


@pytest.mark.parametrize("rows", [103, 50])
def test_the_score_with_the_own_phi_of_the_weights_is_the_usual_one(rows, photo, monkeypatch):
    matrix = load("lgm_net_tiny_r0.10").operator.matrix.detach()[:rows]
    np.save(photo / "phi.npy", 42 * matrix.numpy().T)
    usual, psnr = scores(photo, "usual", monkeypatch)
    own, same = scores(photo, "own", monkeypatch, "--matrix", photo / "phi.npy")
    assert (same == psnr and own["phi_sha256"] == usual["phi_sha256"]) == (rows == 103)
    assert own["ratio"] == (0.1 if rows == 103 else rows / 1024)
    assert same > psnr - 10


@pytest.mark.parametrize(
    "phi",
    [
        np.random.default_rng(0).integers(0, 2, (103, 1024)).astype(bool),
        np.random.default_rng(0).choice([-1, 1], (103, 1024)).astype(np.int8),
        np.linalg.qr(np.random.default_rng(0).normal(size=(1024, 200)))[0],  # transposed
        np.random.default_rng(0).normal(size=(30, 256)),  # blocks of 16 x 16
    ],
    ids=["binary", "sign", "transposed", "small blocks"],
)
def test_the_loss_with_another_phi_is_measured(phi, photo, monkeypatch, capsys):
    """The score is that of y = Φx with Φ / ‖Φ‖₂, reconstructed by the trained network."""
    np.save(photo / "phi.npy", phi)
    found, psnr = scores(photo, "own", monkeypatch, "--matrix", photo / "phi.npy")
    assert "another Φ than that of lgm_net_tiny_r0.10" in capsys.readouterr().err
    _, usual = scores(photo, "usual", monkeypatch)
    assert 0 < psnr < usual
    rows, pixels = sorted(phi.shape)
    assert found["ratio"] == (0.1 if (rows, pixels) == (103, 1024) else rows / pixels)
    model = load("lgm_net_tiny_r0.10")
    rows_first = phi if phi.shape == (rows, pixels) else phi.T
    scaled = torch.from_numpy(rows_first / np.linalg.norm(phi.astype(float), 2)).float()
    own = model.measured_by(BlockSampling(scaled, int(pixels**0.5), learned=False)).eval()
    image = torch.from_numpy(smooth_image(*SIZE) / 255.0).float()[None, None]
    error = (own.reconstruct(own.measure(image)) - image).clamp(-1, 1).square().mean()
    assert psnr == pytest.approx(-10 * float(error.log10()), abs=1.0)  # not rounded, not clipped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--matrix", "none.npy"], "there is no sampling matrix at none.npy"),
        (["--column-major"], "--column-major needs --matrix"),
        (["mri_admm_net_mask_20", "--matrix", "phi.npy"], "--matrix is for block sampling"),
        (["ista_net_plus_5_r0.10", "--matrix", "phi.npy"], "adapt them .*refit.py"),
    ],
)
def test_mistakes_with_an_own_phi_get_one_line(options, message, photo, monkeypatch, capsys):
    np.save(photo / "phi.npy", np.eye(16)[:4])
    options = [photo / part if part == "phi.npy" else part for part in options]
    arguments = [*options, "--data", photo / "photo.png", "--output", photo / "x"]
    assert run_main("test.py", arguments, monkeypatch) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(("rows", "code"), [(103, 0), (50, 1)])
def test_ista_net_that_starts_from_the_adjoint_takes_another_phi_of_the_same_size(
    rows, code, photo, monkeypatch, capsys
):
    network = {"name": "ista_net_plus", "stages": 1, "channels": 2, "start": "back_projection"}
    config = config_from_dict(tiny_config().as_dict() | {"model": network})
    save_weights(photo / "w.safetensors", build_model(config), config)
    np.save(photo / "phi.npy", matrices.orthonormal(rows, 1024).numpy())
    arguments = [photo / "w.safetensors", "--matrix", photo / "phi.npy"]
    more = ["--data", photo / "photo.png", "--output", photo / "x"]
    assert run_main("test.py", [*arguments, *more], monkeypatch) == code
    assert ("made for their own Φ" in capsys.readouterr().err) == bool(code)


def test_refitting_computes_the_parts_of_phi_anew(tmp_path, monkeypatch, capsys):
    """ISTA-Net's x⁰ = Qy belongs to Φ: the Q of the old Φ would be a wrong start."""
    phi = hadamard(103, 32, "sequency")
    np.save(tmp_path / "phi.npy", phi.numpy())
    run = tmp_path / "run"
    arguments = [tmp_path / "phi.npy", "--weights", "ista_net_plus_5_r0.10", "--output", run]
    short = [*arguments, "--steps", "1", "--rate", "1e-30"]
    assert run_main("scripts/refit.py", short, monkeypatch) == 0
    model, old = load(run), load("ista_net_plus_5_r0.10")
    torch.testing.assert_close(model.operator.matrix, phi)
    assert not torch.equal(model.network.start.matrix, old.network.start.matrix)
    for name, value in model.network.named_parameters():
        torch.testing.assert_close(value, old.network.state_dict()[name])
    image = torch.from_numpy(smooth_image(*SIZE) / 255.0).float()[None, None]
    y = model.measure(image)
    errors = [float((each.network.start(y) - image).square().mean()) for each in (model, old)]
    assert 10 * errors[0] < errors[1]


@pytest.mark.parametrize(("length", "steps"), [(["--steps", "3"], 3), (["--minutes", "0.01"], 0)])
def test_the_length_of_refitting(length, steps, tmp_path, monkeypatch):
    np.save(tmp_path / "phi.npy", np.random.default_rng(0).choice([-1, 1], (10, 256)))
    arguments = [tmp_path / "phi.npy", "--output", tmp_path / "run", *length]
    assert run_main("scripts/refit.py", arguments, monkeypatch) == 0
    found = find_weights(tmp_path / "run")
    assert found.number("step") == steps if steps else found.number("step") >= 1
    assert find_weights(tmp_path / "run").config.training.minutes == (0 if steps else 0.01)


@pytest.mark.parametrize("length", [["--steps", "0"], ["--minutes", "0"], ["--minutes", "nan"]])
def test_a_wrong_length_is_refused_before_anything_is_written(
    length, tmp_path, monkeypatch, capsys
):
    np.save(tmp_path / "phi.npy", np.eye(16)[:4])
    arguments = [tmp_path / "phi.npy", "--output", tmp_path / "run", *length]
    assert run_main("scripts/refit.py", arguments, monkeypatch) == 1
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_commands_of_the_page_work(tmp_path, monkeypatch):
    """A camera with patterns of ±1, its Φ not the one of any weights."""
    matrix = np.where(np.random.default_rng(0).normal(size=(103, 1024)) > 0, 1, -1)
    np.save(tmp_path / "phi.npy", matrix)
    image = smooth_image(*SIZE)
    values = camera(image / 255.0, matrix, 32, Layout(pairs="alternating", white=2.0, dark=5.0))
    np.savetxt(tmp_path / "detector.csv", values, delimiter=",")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^python (scripts/\S+) (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [script for script, _ in commands] == [
        "scripts/reconstruct.py", "scripts/refit.py", "scripts/reconstruct.py", "scripts/refit.py",
    ]  # fmt: skip
    for script, text in commands:
        short = text.replace("--minutes 3", "--minutes 0.05").replace("--steps 100", "--steps 1")
        assert run_main(script, shlex.split(short), monkeypatch) == 0
    assert cv2.imread("image.png", cv2.IMREAD_GRAYSCALE).shape == SIZE
    assert json.loads((tmp_path / "runs/own/log.jsonl").read_text().splitlines()[0])
    own = load(tmp_path / "runs/own").operator.matrix
    np.testing.assert_allclose(
        own / own.norm(), matrix / np.linalg.norm(matrix), rtol=1e-4, atol=1e-8
    )
