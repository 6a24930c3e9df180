"""``sampling.phi=orthonormal``: Φ is learned, and ΦΦᵀ = I after every step."""

import numpy as np
import pytest
import torch

from lgmnet.config import ConfigError
from lgmnet.operators import BlockSampling
from lgmnet.operators.matrices import gram_schmidt
from lgmnet.runtime import Runtime
from lgmnet.training.loop import train
from lgmnet.weights import saved
from tests.conftest import tiny_config
from tests.test_training import final, train_steps

CPU = Runtime(torch.device("cpu"))
PHI = "operator.matrix"


def config(phi="orthonormal", training=None, **sampling):
    return tiny_config(
        sampling={"ratio": 0.1, "phi": phi, **sampling},
        training={"rate": 0.01, "ema": 0.9, "schedule": "constant", **(training or {})},
    )


def assert_orthonormal(matrix):
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), rtol=0, atol=1e-5)


def test_gram_schmidt_is_numpys_qr():
    matrix = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    q, r = np.linalg.qr(matrix.double().numpy().T)
    expected = (q * np.sign(np.diag(r))).T
    np.testing.assert_allclose(gram_schmidt(matrix), expected, atol=1e-5)
    assert torch.isnan(gram_schmidt(matrix[[0, 0]])).all()


@pytest.mark.parametrize("start", ["pca", "xavier"])
def test_phi_is_learned_and_stays_orthonormal(tmp_path, start):
    train(config(phi_init=start), tmp_path, CPU)
    fixed = config("fixed", phi_init=start, training={"steps_per_epoch": 1})
    train(fixed, tmp_path / "fixed", CPU)
    before = gram_schmidt(final(tmp_path / "fixed")[PHI])
    for name in ("last", "ema"):
        after = saved.Weights(tmp_path / f"{name}.safetensors").load().operator.matrix.detach()
        assert_orthonormal(after)
        assert 0.01 < (after - before).norm() / before.norm() < 1


def test_a_free_phi_grows(tmp_path):
    """What the setting prevents: steps of Adam make the rows longer, and nothing shortens them."""
    train(config("learned", phi_init="pca"), tmp_path, CPU)
    assert torch.linalg.matrix_norm(final(tmp_path)[PHI], 2) > 1.05


def test_a_range_keeps_the_spaces_of_its_first_rows():
    """Steps at 10 % change the first rows only, and do not mix later rows into them."""
    operator = BlockSampling(torch.eye(8, 64), 8, orthonormal=True)
    with torch.no_grad():
        operator.matrix[:2] += 0.1 * torch.randn(2, 64, generator=torch.Generator().manual_seed(2))
    moved = operator.matrix.detach().clone()
    operator.retract()
    assert_orthonormal(operator.matrix.detach())
    first, q = operator.matrix[:2].detach(), torch.linalg.qr(moved[:2].T).Q
    torch.testing.assert_close(first.T @ first, q @ q.T, rtol=0, atol=1e-5)


def test_a_free_phi_of_other_weights_is_made_orthonormal(tmp_path):
    train(config("learned", phi_init="xavier"), tmp_path / "free", CPU)
    start = {"start": str(tmp_path / "free" / "last.safetensors"), "steps_per_epoch": 1}
    train(config(training={**start, "rate": 1e-9}), tmp_path / "on", CPU)
    expected = gram_schmidt(final(tmp_path / "free")[PHI])
    torch.testing.assert_close(final(tmp_path / "on")[PHI], expected, rtol=0, atol=1e-5)


def test_resumes_to_the_bit(tmp_path, monkeypatch):
    train(config(phi_init="pca"), tmp_path / "whole", CPU)
    train_steps(config(phi_init="pca"), tmp_path / "parts", 3, monkeypatch)
    monkeypatch.undo()
    train(config(phi_init="pca"), tmp_path / "parts", CPU, resume=True)
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(ConfigError, match="set sampling.phi=learned, or sampling.phi_values=real"):
        config(phi_values="sign")
    near = np.random.default_rng(1).normal(size=(103, 1024)).astype(np.float32) / 32
    near[1] = near[0] + 1e-6 * near[2]  # so near that Cholesky may not fail
    for k, phi in enumerate([np.ones((103, 1024), np.float32) / 32, near]):
        np.save(tmp_path / "phi.npy", phi)
        start = config(phi_init=str(tmp_path / "phi.npy"), phi_scale="unit")
        with pytest.raises(ConfigError, match="linearly dependent.*change sampling.phi_init"):
            train(start, tmp_path / f"run{k}", CPU)
