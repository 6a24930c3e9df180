"""The bridge to deepinv, where it is installed."""

import pytest
import torch

pytest.importorskip("deepinv", exc_type=ImportError)

import deepinv as dinv

from lgmnet.build import build_model
from lgmnet.interop.deepinv import ModelReconstructor, OperatorPhysics, PhysicsOperator
from lgmnet.operators import BlockSampling, FourierMask, masks, matrices
from tests.conftest import smooth_image, tiny_config

OPERATORS = {
    "blocks": BlockSampling(matrices.orthonormal(20, 64), 8),
    "mask": FourierMask(masks.variable_density((16, 24), 0.4)),
}


def image(*sides):
    pixels = smooth_image(*sides)
    return torch.from_numpy(pixels / 255.0).float()[None, None]


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_passes_the_tests_of_deepinv(name):
    physics = OperatorPhysics(OPERATORS[name])
    x = torch.randn(1, 1, 16, 24)
    assert physics.adjointness_test(x).abs() < 1e-3
    norm = physics.compute_sqnorm(x, max_iter=200, tol=1e-6, verbose=False)
    assert float(norm) == pytest.approx(OPERATORS[name].lipschitz(), rel=1e-2)
    solved = physics.prox_l2(x, physics(x), gamma=2.0)
    exact = OPERATORS[name].solve(x, 0.5, OPERATORS[name].adjoint(physics(x)))
    torch.testing.assert_close(solved, exact, rtol=1e-2, atol=1e-2)


def model():
    return build_model(tiny_config(model={"phity_skip": True}))


def test_a_model_is_scored_by_deepinv():
    reconstructor = ModelReconstructor(model().eval())
    x = torch.cat([image(64, 96), image(64, 96).flip(3)])
    data = torch.utils.data.TensorDataset(x, reconstructor.physics(x).detach())
    found = dinv.test(
        reconstructor,
        torch.utils.data.DataLoader(data),
        reconstructor.physics,
        metrics=dinv.metric.PSNR(),
        verbose=False,
        show_progress_bar=False,
    )
    errors = (reconstructor.model(x).image - x).square().mean((1, 2, 3))
    assert found["PSNR"] == pytest.approx(float(-10 * errors.log10().mean()), abs=0.01)


def test_a_learned_phi_travels_with_the_reconstructor():
    names = {name for name, _ in ModelReconstructor(model()).named_parameters()}
    assert "model.operator.matrix" in names


def test_a_physics_of_deepinv_measures_for_a_network():
    physics = dinv.physics.Blur(dinv.physics.blur.gaussian_blur(1.0), padding="circular")
    operator = PhysicsOperator(physics, 1, (64, 96))
    x, y = image(64, 96), torch.randn(1, 1, 64, 96)
    left, right = (operator(x) * y).sum(), (x * operator.adjoint(y)).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
    assert operator.measurement_shape(64, 96) == (1, 64, 96)
    reconstructor = ModelReconstructor(model().eval())
    assert reconstructor(operator(x), OperatorPhysics(operator)).shape == x.shape
    with pytest.raises(ValueError, match="expected OperatorPhysics; wrap it"):
        reconstructor(operator(x), physics)


def test_equivariant_imaging_trains_from_measurements_alone():
    """With a fixed Φ, the loss on y and on shifted images falls; no image is seen."""
    torch.manual_seed(0)
    reconstructor = ModelReconstructor(
        build_model(tiny_config(model={"phity_skip": True}, sampling={"phi": "fixed"}))
    )
    physics = reconstructor.physics
    y = physics(image(64, 96))
    losses = [dinv.loss.MCLoss(), dinv.loss.EILoss(dinv.transform.Shift())]
    optimizer = torch.optim.Adam(reconstructor.parameters(), 1e-3)
    history = []
    for _ in range(20):
        found = reconstructor(y, physics)
        loss = sum(
            term(x_net=found, y=y, physics=physics, model=reconstructor).mean() for term in losses
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss))
    assert sum(history[-5:]) < 0.9 * sum(history[:5])
