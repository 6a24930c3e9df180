"""The bridge to deepinv, where it is installed."""

import pytest
import torch

pytest.importorskip("deepinv", exc_type=ImportError)

import deepinv as dinv

from lgmnet.build import build_model
from lgmnet.config import config_from_dict
from lgmnet.interop.deepinv import (
    ModelReconstructor,
    OperatorPhysics,
    PartOperator,
    PhysicsOperator,
    operator_of,
)
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


@pytest.mark.parametrize("name", OPERATORS)
def test_a_part_of_the_numbers_is_an_operator_of_its_own(name):
    operator = OPERATORS[name]
    x = torch.randn(2, 1, 16, 24)
    mask = (torch.rand_like(operator(x)) > 0.3).float()
    part = PartOperator(operator, mask)
    torch.testing.assert_close(part(x), mask * operator(x))
    y = torch.randn_like(mask)
    left, right = (part(x) * y).sum(), (x * part.adjoint(y)).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
    features = torch.randn(2, 3, 16, 24)  # three feature channels of each image
    alone = [PartOperator(operator, mask[k : k + 1]).gram(features[k : k + 1]) for k in range(2)]
    torch.testing.assert_close(part.gram(features), torch.cat(alone))


def test_a_split_physics_keeps_the_operator():
    physics = OperatorPhysics(OPERATORS["mask"])
    y = physics(torch.randn(2, 1, 16, 24))
    assert torch.equal(physics.mask.bool(), OPERATORS["mask"].support.expand(1, 2, 16, 24))
    assert not hasattr(OperatorPhysics(OPERATORS["blocks"]), "mask")
    mask = torch.ones_like(y)
    split, part = dinv.loss.SplittingLoss.split(mask, y, physics)
    assert operator_of(part).operator is OPERATORS["mask"]
    torch.testing.assert_close(split, y)
    x = torch.randn(2, 1, 16, 24)
    torch.testing.assert_close(operator_of(part)(x), part.A(x))
    blur = dinv.physics.Blur(torch.ones(1, 1, 3, 3) / 9, padding="circular")
    with pytest.raises(ValueError, match="expected OperatorPhysics; wrap it"):
        operator_of(blur * physics)
    with pytest.raises(ValueError, match="StackedLinearPhysics, expected OperatorPhysics"):
        operator_of(physics.stack(physics))


@pytest.mark.parametrize("name", ["blocks", "mask", "blur"])
def test_a_splitting_loss_trains_from_measurements_alone(name):
    """The network sees a part of y, and predicts the rest. No image is seen."""
    torch.manual_seed(0)
    sampling = {"ratio": 0.3, "phi": "fixed", "phi_init": "orthonormal"}
    if name == "mask":
        sampling = {"operator": "fourier_mask", "mask": "variable_density", "size": [64, 96],
                    "fraction": 0.4}  # fmt: skip
    tree = tiny_config(model={"phity_skip": True}).as_dict() | {"sampling": sampling}
    reconstructor = ModelReconstructor(build_model(config_from_dict(tree)))
    physics = reconstructor.physics
    if name == "blur":
        blur = dinv.physics.Blur(torch.ones(1, 1, 3, 3) / 9, padding="circular")
        physics = OperatorPhysics(PhysicsOperator(blur, 1, (64, 96)))
    x = torch.cat([image(64, 96), image(64, 96).flip(3)])
    y = physics(x).detach()
    loss = dinv.loss.SplittingLoss(split_ratio=0.8, pixelwise=name == "mask", eval_n_samples=2)
    model = loss.adapt_model(reconstructor)

    def of_a_split():
        found = model(y, physics, update_parameters=True)
        return loss(x_net=found, y=y, physics=physics, model=model).mean()

    def of_many():
        return sum(float(of_a_split().detach()) for _ in range(20))

    before = of_many()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        of_a_split().backward()
        optimizer.step()
    assert of_many() < 0.5 * before
    assert model.eval()(y, physics).shape == x.shape
    whole = dinv.loss.SplittingLoss(eval_split_input=False).adapt_model(reconstructor).eval()
    assert torch.equal(whole(y, physics), reconstructor(y, physics))
