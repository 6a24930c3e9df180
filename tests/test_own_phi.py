"""A user's Φ: what the file may hold, its scale, and the guide docs/own-phi.md."""

import re
import shlex

import cv2
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch

import lgmnet
from lgmnet.build import Source
from lgmnet.commands import main
from lgmnet.config import ConfigError
from lgmnet.operators.matrices import NORMS, load_matrix, spectral_norm
from lgmnet.operators.ratios import STARTS
from lgmnet.weights.own_phi import WithOwnPhi
from lgmnet.weights.saved import find_weights
from tests.conftest import PROJECT, smooth_image, tiny_config

GUIDE = (PROJECT / "docs" / "own-phi.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|bash)\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
SMALL = ["training.minutes=0", "training.epochs=1", "training.steps_per_epoch=2",
         "training.batch_size=2", "evaluation.datasets=photo.png"]  # fmt: skip
SIDE, ROWS = 8, 6


def signs(rows=ROWS, columns=SIDE**2):
    return np.random.default_rng(0).choice([-1, 1], size=(rows, columns)).astype(np.int8)


def sampling(path, **settings):
    """The settings of block sampling with this file."""
    values = {"ratio": ROWS / SIDE**2, "block_size": SIDE, "phi_init": str(path), **settings}
    return tiny_config(sampling=values).sampling


def made(path, **settings):
    return sampling(path, **settings).make(Source()).matrix.detach()


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, bool, np.float16, np.float64])
@pytest.mark.parametrize("ending", [".npy", ".npz", ".mat"])
def test_integers_and_booleans_are_read_as_their_values(tmp_path, kind, ending):
    phi = (signs() > 0).astype(kind)
    path = tmp_path / f"phi{ending}"
    if ending == ".npy":
        np.save(path, phi)
    elif ending == ".npz":
        np.savez(path, phi=phi)
    elif kind != np.float16:  # a type that MATLAB does not have
        scipy.io.savemat(path, {"Phi": phi})
    else:
        return
    loaded = load_matrix(path)
    assert loaded.dtype == torch.float32
    np.testing.assert_array_equal(loaded.numpy(), phi.astype(np.float32))


def test_a_sparse_matrix_of_matlab_is_read(tmp_path):
    phi = (signs() > 0).astype(float)
    scipy.io.savemat(tmp_path / "phi.mat", {"Phi": scipy.sparse.csc_matrix(phi)})
    np.testing.assert_array_equal(load_matrix(tmp_path / "phi.mat").numpy(), phi)


def test_complex_numbers_are_refused(tmp_path):
    np.save(tmp_path / "phi.npy", signs() * 1j)
    with pytest.raises(ConfigError, match=r"type complex128, expected a real matrix \(m, pixels\)"):
        made(tmp_path / "phi.npy")


def test_a_large_matrix_is_refused_with_its_norm_and_the_option(tmp_path):
    np.save(tmp_path / "phi.npy", signs())
    norm = np.linalg.norm(signs().astype(float), 2)
    with pytest.raises(ConfigError, match=f"‖Φ‖₂ is {norm:.4g}, .* set sampling.phi_scale=unit"):
        made(tmp_path / "phi.npy")
    unit = made(tmp_path / "phi.npy", phi_scale="unit")
    torch.testing.assert_close(unit, torch.from_numpy(signs() / norm).float())


def test_the_limits_of_the_norm_include_every_start_and_all_shipped_weights(tmp_path):
    low, high = NORMS
    generator = torch.Generator().manual_seed(0)
    for start in STARTS.values():
        for m in (11, 103, 1024):
            assert low < spectral_norm(start(m, 1024, generator)) < high
    for shipped in lgmnet.available():
        operator = shipped.weights.load().operator
        if hasattr(operator, "matrix"):
            assert low < spectral_norm(operator.matrix.detach()) < high
    np.save(tmp_path / "phi.npy", signs() * 1e-4)
    with pytest.raises(ConfigError, match="networks expect about 1"):
        made(tmp_path / "phi.npy")


def test_a_usable_matrix_is_kept_to_the_bit(tmp_path):
    phi = (signs() / 8).astype(np.float32)
    np.save(tmp_path / "phi.npy", phi)
    assert np.array_equal(made(tmp_path / "phi.npy").numpy(), phi)


def test_a_zero_matrix_and_an_unknown_scale_are_refused(tmp_path):
    np.save(tmp_path / "phi.npy", np.zeros((ROWS, SIDE**2)))
    for scale in ("keep", "unit"):
        with pytest.raises(ConfigError, match="measures nothing"):
            made(tmp_path / "phi.npy", phi_scale=scale)
    with pytest.raises(ConfigError, match="phi_scale is 'row', expected one of keep, unit"):
        sampling(tmp_path / "phi.npy", phi_scale="row")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((SIDE**2, ROWS), r"shape \(64, 6\), expected \(6, 64\): it is probably transposed"),
        ((ROWS, 49), "has 49 columns, .* set sampling.block_size=7"),
        ((ROWS, 50), r"has 50 columns, .* use a Φ with B² columns"),
        ((7, SIDE**2), r"measures 7 numbers per block \(ratio 0.1094\), .* needs 6"),
    ],
)
def test_a_matrix_of_another_shape_says_what_it_probably_is(tmp_path, shape, message):
    np.save(tmp_path / "phi.npy", signs(*shape))
    with pytest.raises(ConfigError, match=message):
        made(tmp_path / "phi.npy", phi_scale="unit")


def test_weights_hold_the_scaled_matrix(tmp_path, monkeypatch):
    """The file may be gone when they are loaded."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", smooth_image(50, 70))
    np.save("phi.npy", signs(103, 1024))
    phi = ["sampling.phi_init=phi.npy", "sampling.phi=fixed", "sampling.phi_scale=unit"]
    config = PROJECT / "configs" / "quickstart.yaml"
    assert main(["train", str(config), *phi, *SMALL, "--output", "run"]) == 0
    (tmp_path / "phi.npy").unlink()
    matrix = lgmnet.load("run").operator.matrix
    assert spectral_norm(matrix) == pytest.approx(1, abs=1e-5)
    assert torch.equal(matrix.sign(), torch.from_numpy(signs(103, 1024)).float())


@pytest.mark.slow
def test_weights_with_another_phi_load_a_model_of_its_own_each_time(tmp_path):
    """A model that was moved or changed is not the next one."""
    path = tmp_path / "signs.npy"
    np.save(path, signs(109, 33**2))
    own = WithOwnPhi(find_weights("lgm_net_tiny_r0.10"), path)
    first = own.load().double()
    assert next(own.load().parameters()).dtype == torch.float32
    assert next(first.parameters()).dtype == torch.float64


def test_the_guide_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", smooth_image(50, 70))
    names: dict = {}
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "own-phi.md", "exec"), names)
            continue
        for line in block.replace("\\\n", "").splitlines():
            program, *arguments = shlex.split(line)
            assert program == "lgmnet"
            assert main(arguments + (SMALL if arguments[0] == "train" else [])) == 0
    assert cv2.imread("out.png", cv2.IMREAD_UNCHANGED).shape == (50, 70)
    assert names["phi"].shape == (103, 1024)


def test_the_norms_of_the_guide():
    normal = torch.randn(103, 1024, generator=torch.Generator().manual_seed(0))
    for matrix, norm in (
        (normal / 32, 1.3),
        (normal / 103**0.5, 4.1),
        (normal, 42),
        ((normal > 0).float(), 160),
    ):
        assert spectral_norm(matrix) == pytest.approx(norm, rel=0.03)
