"""ADMM-CSNet against its formulas, and against what the authors' weights give."""

import numpy as np
import pytest
import torch

from lgmnet import complexity
from lgmnet.models import ADMMCSNet, admm_csnet
from lgmnet.operators import BlockSampling, FourierMask, masks, matrices
from lgmnet.weights.foreign import load_foreign


def published(reference):
    return load_foreign(reference / "admm_csnet/admm_csnet_0.3.pth")


@pytest.mark.shared
@pytest.mark.parametrize("case", ["whole", "crop"])
def test_published_weights_give_what_the_authors_code_gives(reference, case):
    """They score magnitudes."""
    options, state = admm_csnet.from_published(published(reference))
    assert options == {
        "stages": 10, "channels": 128, "kernel_size": 5, "knots": 101, "shared": True,
        "project": True,
    }  # fmt: skip
    network = ADMMCSNet(**options)
    network.load_state_dict(state)
    stored = np.load(reference / "admm_csnet/admm_csnet_0.3_io.npz")
    names = ("crop", "crop_mask", "crop_out") if case == "crop" else ("image", "mask", "out")
    image, mask, expected = (torch.from_numpy(stored[name]) for name in names)
    operator = FourierMask(mask, channels=2)
    measurement = operator(torch.view_as_real(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        result = network(measurement, operator).image[0]
    result = torch.complex(result[0], result[1])
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    if case == "whole":
        error = float((result.abs() - image.abs()).square().mean())
        assert -10 * np.log10(error) == pytest.approx(36.84, abs=5e-3)


@pytest.mark.shared
def test_files_that_are_not_theirs_are_refused(reference):
    state = published(reference)
    with pytest.raises(ValueError, match=r"cs_net.13.rho differs from the weights that all stages"):
        admm_csnet.from_published(state | {"cs_net.13.rho": torch.ones(1)})
    with pytest.raises(ValueError, match="its tensor head.weight is unknown"):
        admm_csnet.from_published(state | {"head.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="not a weights file of ADMM-CSNet: it has no tensor rho"):
        admm_csnet.from_published({"fcs.0.lambda_step": torch.zeros(1)})


def operators(kind):
    if kind == "blocks":
        return BlockSampling(matrices.gaussian(6, 16), 4)
    return FourierMask(masks.pseudo_radial((8, 12), 3), 2 if kind == "complex" else 1)


@pytest.mark.parametrize("kind", ["blocks", "real", "complex"])
def test_two_stages_written_out(kind):
    """Two z steps each; with weights that differ from stage to stage."""
    torch.manual_seed(1)
    operator = operators(kind).double()
    network = ADMMCSNet(stages=2, channels=3, inner_steps=2).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    measurement = operator(torch.rand(2, operator.channels, 8, 12, dtype=torch.float64))
    z = beta = torch.zeros(2, operator.channels, 8, 12, dtype=torch.float64)
    rho = network.raw_weights.exp().log1p()
    for k, prior in enumerate(network.priors):
        x = operator.solve(z - beta, rho[k], operator.adjoint(measurement))
        v = z = x + beta
        for _ in range(2):
            slope = [
                prior.synthesis(prior.shrinkage(prior.analysis(z[:, c : c + 1])))
                for c in range(operator.channels)
            ]
            z = prior.mix[0] * z + prior.mix[1] * v - torch.cat(slope, 1)
        beta = beta + network.steps[k] * (x - z)
    expected = operator.solve(z - beta, rho[2], operator.adjoint(measurement))
    result = network(measurement, operator).image
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["blocks", "real", "complex"])
def test_the_result_is_measured_as_y_if_that_is_asked_for(kind):
    operator = operators(kind).double()
    measurement = operator(torch.rand(1, operator.channels, 8, 12, dtype=torch.float64))
    for project in (True, False):
        network = ADMMCSNet(stages=2, channels=4, project=project).double()
        image = network(measurement, operator).image.detach()
        assert ((operator(image) - measurement).abs().max() < 1e-10) == project


def smoothed_norm(prior, image):
    """Of C z: half a square up to 0.05, and straight on from there."""
    code = prior.analysis(image).abs()
    return torch.where(code < 0.05, code.square() / 2, 0.05 * code - 0.00125).sum()


def test_untrained_the_z_step_is_a_gradient_step_of_a_smoothed_norm():
    """With μ₁ + μ₂ = 1 and the step 1/9. With 201 knots one of them is 0.05."""
    prior = ADMMCSNet(stages=1, channels=9, knots=201).double().priors[0]
    image = torch.randn(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    before = smoothed_norm(prior, image)
    (gradient,) = torch.autograd.grad(before, image)
    result = prior(image)
    torch.testing.assert_close(9 * (image - result), gradient, atol=1e-6, rtol=1e-6)
    assert smoothed_norm(prior, result) < before


def test_counts():
    """Filters, biases, values, end slopes and μ of a stage, with η and ρ; and the last ρ."""
    stage = (72 + 8) + (808 + 16) + (72 + 1) + 2 + 2
    assert complexity.parameters(ADMMCSNet()) == 10 * stage + 1
    assert complexity.parameters(ADMMCSNet(shared=True)) == stage


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="kernel_size is 4, expected an odd number"):
        ADMMCSNet(kernel_size=4)
    with pytest.raises(ValueError, match="inner_steps is 0, expected at least 1"):
        ADMMCSNet(inner_steps=0)
