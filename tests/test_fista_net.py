import numpy as np
import pytest
import torch

from lgmnet import complexity
from lgmnet.models import FISTANet
from lgmnet.models.fista_net import Schedule, alista_matrix, from_published
from lgmnet.operators import BlockSampling, matrices
from lgmnet.unfolding.fitted import Fitted
from lgmnet.weights.foreign import load_foreign


def fitted(operator, **options):
    network = FISTANet(
        operator.measurements, operator.block_size, **{"start": "adjoint", **options}
    )
    for module in network.modules():
        if isinstance(module, Fitted):
            module.fit(operator.matrix.detach())
    return network


@pytest.mark.parametrize("stages", [1, 7])
def test_the_parameter_count_does_not_depend_on_the_stages(stages):
    assert complexity.parameters(FISTANet(109, 33, stages=stages)) == 74_599


def test_the_schedule_starts_as_published():
    values = np.array([[float(v.detach()) for v in Schedule()(k)] for k in range(4)])
    np.testing.assert_allclose(values[:, 0], [0.744, 0.644, 0.554, 0.474], atol=6e-4)
    np.testing.assert_allclose(values[:, 1], [0.127, 0.079, 0.049, 0.030], atol=6e-4)
    np.testing.assert_allclose(values[:, 2], [0, 0.288, 0.472, 0.593], atol=6e-4)
    assert values[0, 2] == 0


def test_two_stages_in_numpy():
    """One block in float64, up to the point where momentum first acts."""
    operator = BlockSampling(matrices.gaussian(9, 36), 6, learned=False).double()
    network = fitted(operator, stages=3, channels=3, w_tilde="alista", nonneg=False).double()
    phi, w = operator.matrix.numpy(), network.alista.matrix.numpy()
    y = phi @ np.random.default_rng(0).random(36)

    def softplus(v):
        return np.log1p(np.exp(v))

    def prior(r, threshold):
        image = torch.from_numpy(r.reshape(1, 1, 6, 6))
        estimate, residual, sparse = network.prior(image, torch.tensor(threshold).double())
        return estimate.detach().numpy().ravel(), residual.square().mean(), sparse.abs().mean()

    x = v = phi.T @ y
    symmetry = sparsity = 0
    for k in range(3):
        r = v - softplus(-0.2 * k + 0.1) * w.T @ (phi @ v - y)
        new, residual, code = prior(r, softplus(-0.5 * k - 2))
        growth = softplus(0.5 * k)
        v = new + (growth - softplus(0)) / growth * (new - x)
        x = new
        symmetry, sparsity = symmetry + residual, sparsity + code
    image, penalties = network(torch.from_numpy(y).reshape(1, 9, 1, 1), operator)
    np.testing.assert_allclose(image.detach().numpy().ravel(), x, atol=1e-7)
    torch.testing.assert_close(penalties["symmetry"], 0.01 * symmetry)
    torch.testing.assert_close(penalties["sparsity"], 0.001 * sparsity)


def test_the_prior_in_functions():
    """T without its ReLU: r + G(F̃(soft(F(D r), θ))), four convolutions each, three ReLU."""
    prior = fitted(BlockSampling(matrices.gaussian(9, 36), 6), channels=3).prior
    r = torch.randn(2, 1, 7, 5)

    def four(features, layers):
        for k in range(0, 7, 2):
            layer = layers[k]
            features = torch.conv2d(features, layer.weight, layer.bias, padding=1)
            features = features.clamp(min=0) if k < 6 else features
        return features

    entered = torch.conv2d(r, prior.entry.weight, prior.entry.bias, padding=1)
    code = four(entered, prior.analysis)
    shrunk = code.clamp(min=0.05) - 0.05 + code.clamp(max=-0.05) + 0.05
    change = torch.conv2d(four(shrunk, prior.synthesis), prior.exit.weight, padding=1)
    estimate, residual, sparse = prior(r, torch.tensor(0.05))
    torch.testing.assert_close(estimate, r + change)
    torch.testing.assert_close(residual, four(code, prior.synthesis) - entered)
    torch.testing.assert_close(sparse, shrunk)


@pytest.mark.parametrize("make", [matrices.gaussian, matrices.orthonormal])
def test_alista_weights_agree_with_projected_gradients(make):
    phi = make(20, 64).double() * torch.linspace(0.5, 2, 64)
    norms = phi.norm(dim=0)
    a = phi / norms
    w = a.clone()
    eta = 0.5 / float(torch.linalg.matrix_norm(a, 2) ** 2)
    for _ in range(3000):
        w = w - eta * a @ (a.T @ w - torch.eye(64))
        w = w + (1 - (w * a).sum(0)) * a
    torch.testing.assert_close(alista_matrix(phi), w * norms, rtol=0, atol=1e-6)


def test_alista_needs_a_fixed_phi_that_sees_every_pixel():
    operator = BlockSampling(matrices.orthonormal(16, 64), 8, learned=True)
    with pytest.raises(ValueError, match="set sampling.phi: fixed"):
        fitted(operator, w_tilde="alista")(torch.rand(1, 16, 1, 1), operator)
    blind = matrices.orthonormal(16, 64)
    blind[:, 3] = 0
    with pytest.raises(ValueError, match="1 zero columns"):
        alista_matrix(blind)


def test_options_do_what_they_name():
    operator = BlockSampling(matrices.gaussian(16, 64), 8, learned=False)
    measurement = operator(torch.rand(1, 1, 16, 16) - 0.5)
    network = fitted(operator, channels=4, stages=3)
    assert (network(measurement, operator).image >= 0).all()
    network.nonneg = False
    image = network(measurement, operator).image
    assert (image < 0).any()
    other = fitted(operator, channels=4, stages=3, nonneg=False, w_tilde="alista")
    other.load_state_dict(network.state_dict(), strict=False)
    assert not torch.allclose(other(measurement, operator).image, image)
    network.prior_domain = "image"
    assert not torch.allclose(network(measurement, operator).image, image)
    network.symmetry_weight = network.sparsity_weight = 0
    assert not any(network(measurement, operator).penalties.values())


@pytest.mark.parametrize("domain", ["block", "image"])
def test_only_with_the_image_domain_blocks_touch_each_other(domain):
    operator = BlockSampling(matrices.orthonormal(16, 64), 8)
    network = fitted(operator, stages=2, channels=4, prior_domain=domain)
    image = torch.rand(1, 1, 16, 24)
    changed = image.clone()
    changed[:, :, :8, :8] += 0.3
    a, b = (network(operator(x), operator).image for x in (image, changed))
    different = (a - b).abs() > 1e-7
    assert different[:, :, :8, :8].any()
    assert bool(different[:, :, 8:].any() or different[..., 8:].any()) == (domain == "image")


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="w_tilde is 'w', expected one of phi, alista"):
        FISTANet(9, 6, w_tilde="w")
    with pytest.raises(ValueError, match="expected one of block, image"):
        FISTANet(9, 6, prior_domain="pixel")


@pytest.fixture
def published(reference):
    folder = reference / "fista_net"
    with np.load(folder / "fista_net_m109_K7_io.npz") as archive:
        arrays = {key: torch.from_numpy(archive[key]) for key in archive}
    return load_foreign(folder / "fista_net_m109_K7.pkl"), arrays


@pytest.mark.shared
def test_golden_case_of_the_public_code(published):
    state, arrays = published
    options, matrix, own = from_published(state, arrays["phi"])
    network = FISTANet(109, 33, **options)
    network.load_state_dict(own)
    operator = BlockSampling(matrix, 33, learned=False)
    measurement = operator(arrays["x"])
    torch.testing.assert_close(network.start(measurement), arrays["x0"], rtol=0, atol=1e-5)
    assert options["stages"] == int(arrays["stages"])
    image = network(measurement, operator).image
    torch.testing.assert_close(image, arrays["x_hat"], rtol=0, atol=1e-5)


@pytest.mark.shared
def test_the_importer_refuses_what_it_cannot_translate(published, reference):
    state, arrays = published
    phi = arrays["phi"]
    with pytest.raises(ValueError, match="give it with --matrix"):
        from_published(state)
    with pytest.raises(ValueError, match=r"needs \(1089, 109\)"):
        from_published(state, phi, phi)
    with pytest.raises(ValueError, match="tensor bb.conv5_forward.weight is unknown"):
        from_published({**state, "bb.conv5_forward.weight": phi}, phi)
    with pytest.raises(ValueError, match="tensor step is unknown"):
        from_published({**state, "step": phi}, phi)
    different = {**state, "fcs.3.conv_D.bias": state["bb.conv_D.bias"] + 1}
    with pytest.raises(ValueError, match=r"fcs\.3\.conv_D\.bias differs"):
        from_published(different, phi)
    other = load_foreign(reference / "lgmnet" / "lgmnet_r010_D1_dim4.pkl")
    with pytest.raises(ValueError, match="not a weights file of FISTA-Net"):
        from_published(other, phi)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "prior_domain is 'block', but the operator has no blocks"),
        ({"prior_domain": "image"}, "set model.start=back_projection"),
    ],
)
def test_what_needs_blocks_is_refused_without_them(options, message):
    with pytest.raises(ValueError, match=message):
        FISTANet(**options)
