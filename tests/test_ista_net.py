import numpy as np
import pytest
import torch

from lgmnet import complexity
from lgmnet.models import ISTANet, ISTANetPlus, create_network
from lgmnet.operators import BlockSampling, matrices
from lgmnet.unfolding.blocks import soft_threshold
from lgmnet.unfolding.starts import LinearStart, regression


def test_parameter_counts_of_the_public_code():
    assert complexity.parameters(ISTANet(109, 33)) == 171_090
    assert complexity.parameters(ISTANetPlus(109, 33)) == 336_978


@pytest.mark.parametrize("threshold", [0.3, 0.0, -0.2])
def test_soft_threshold_follows_the_formula_for_negative_thresholds_too(threshold):
    values = np.linspace(-1, 1, 21)
    expected = np.sign(values) * np.maximum(np.abs(values) - threshold, 0)
    result = soft_threshold(torch.from_numpy(values), threshold)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-15)


def numpy_conv(x, weight):
    """3 x 3 correlation with zero padding, (c, h, w) -> (o, h, w), written out."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weight), *x.shape[1:]))
    for i in range(3):
        for j in range(3):
            shifted = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
            out += np.einsum("oc,chw->ohw", weight[:, :, i, j], shifted)
    return out


def test_a_stage_of_ista_net_plus_in_numpy():
    """One block, one stage, float64: gradient step, then r + G(H̃(soft(H(D r))))."""
    operator = BlockSampling(matrices.gaussian(9, 36), 6).double()
    network = ISTANetPlus(9, 6, stages=1, channels=3, start="adjoint").double()
    network.start.fit(operator.matrix.detach())
    x = np.random.default_rng(0).random(36)
    phi = operator.matrix.detach().numpy()
    y = phi @ x
    estimate = phi.T @ y
    r = (estimate - 0.5 * phi.T @ (phi @ estimate - y)).reshape(1, 6, 6)
    prior = network.priors[0]
    w = {name: p.detach().numpy() for name, p in prior.named_parameters()}
    features = numpy_conv(r, w["entry.weight"])
    hidden = np.maximum(numpy_conv(features, w["analysis.0.weight"]), 0)
    code = numpy_conv(hidden, w["analysis.2.weight"])

    def synthesis(v):
        return numpy_conv(np.maximum(numpy_conv(v, w["synthesis.0.weight"]), 0),
                          w["synthesis.2.weight"])  # fmt: skip

    shrunk = np.sign(code) * np.maximum(np.abs(code) - 0.01, 0)
    expected = r + numpy_conv(synthesis(shrunk), w["exit.weight"])
    symmetry = np.mean((synthesis(code) - features) ** 2)
    image, penalties = network(torch.from_numpy(y).reshape(1, 9, 1, 1), operator)
    np.testing.assert_allclose(image.detach().numpy()[0], expected, atol=1e-12)
    np.testing.assert_allclose(penalties["symmetry"].detach(), 0.01 * symmetry, rtol=1e-10)


@pytest.mark.parametrize("name", ["ista_net", "ista_net_plus"])
def test_blocks_are_rebuilt_by_themselves_or_together(name):
    """With prior_domain=block a change in one block stays there; with image it spreads."""
    operator = BlockSampling(matrices.orthonormal(16, 64), 8)
    image = torch.rand(1, 1, 16, 24)
    changed = image.clone()
    changed[:, :, :8, :8] += 0.3
    for domain, spreads in (("block", False), ("image", True)):
        options = {"stages": 2, "channels": 4, "start": "adjoint", "prior_domain": domain}
        network = create_network(name, options, {"measurements": 16, "block_size": 8})
        network.start.fit(operator.matrix.detach())
        a, b = (network(operator(x), operator).image for x in (image, changed))
        different = (a - b).abs() > 1e-7
        assert different[:, :, :8, :8].any()
        assert bool(different[:, :, 8:].any() or different[:, :, :, 8:].any()) == spreads


def test_the_regression_start_is_the_best_linear_map():
    blocks = torch.randn(400, 5) @ torch.randn(5, 16)
    phi = matrices.gaussian(8, 16)
    start = LinearStart(8, 4)
    start.fit(phi, blocks)
    error = (blocks @ phi.T @ start.matrix.T - blocks).square().mean()
    assert float(error) < 1e-6  # 8 numbers determine 5
    noisy = blocks + 0.1 * torch.randn(400, 16)
    q = regression(phi, noisy).double()
    y = noisy.double() @ phi.double().T
    torch.testing.assert_close(  # normal equations: the residual is orthogonal to y
        (y @ q.T - noisy.double()).T @ y / len(y), torch.zeros(16, 8).double(), atol=1e-4, rtol=0
    )


def test_a_start_that_was_never_fitted_cannot_pass_for_a_result():
    start = LinearStart(8, 4)
    assert start(torch.rand(1, 8, 2, 2)).isnan().all()
    with pytest.raises(ValueError, match="at least as many training blocks, not 0"):
        start.fit(matrices.gaussian(8, 16))
    with pytest.raises(ValueError, match="expected one of regression, adjoint, gaussian"):
        LinearStart(8, 4, "zero")


def test_the_adjoint_start_is_phi_transposed():
    operator = BlockSampling(matrices.gaussian(8, 16), 4)
    start = LinearStart(8, 4, "adjoint", learned=True)
    start.fit(operator.matrix.detach())
    y = torch.rand(2, 8, 3, 2)
    torch.testing.assert_close(start(y), operator.adjoint(y))
    assert list(start.parameters())
