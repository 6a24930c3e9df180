"""GIN-style networks against their hosts, the parameter counts and the formulas of the steps."""

import math

import pytest
import torch
import torch.nn.functional as F

from lgmnet import complexity
from lgmnet.config import load_config
from lgmnet.models import SensingModel, create_network
from lgmnet.models.gin import prior_input
from lgmnet.operators import BlockSampling, matrices
from lgmnet.unfolding.fitted import Fitted
from tests.test_configs import FOLDER

HOSTS = ("ista_net_plus", "fista_net", "amp_net_tip")
STEPS = ("gdm", "cat", "sub", "feat", "gdm2")


def build(name, operator, **options):
    options = {"stages": 2, "channels": 4, **options}
    if "amp" not in name:
        options = {"start": "adjoint", **options}
    network = create_network(name, options, operator.sizes())
    for module in network.modules():
        if isinstance(module, Fitted):
            module.fit(operator.matrix.detach())
    return network


@pytest.fixture
def operator():
    return BlockSampling(matrices.gaussian(9, 36), 6, learned=False)


def entries(network):
    """The first convolution of every prior."""
    return [
        stage.entry if hasattr(stage, "entry") else stage.denoiser[0] for stage in network.stages()
    ]


@pytest.mark.parametrize(
    ("host", "channels", "gdm", "gin"),
    [
        ("ista_net_plus", 16, 85_554, 86_850), ("ista_net_plus", 32, 336_978, 339_570),
        ("ista_net_plus", 48, 754_290, 758_178), ("ista_net_plus", 64, 1_337_490, 1_342_674),
        ("fista_net", 16, 18_871, 19_015), ("fista_net", 32, 74_599, 74_887),
        ("fista_net", 48, 167_191, 167_623), ("fista_net", 64, 296_647, 297_223),
        ("amp_net_tip", 32, 581_283, 583_875),
    ],
)  # fmt: skip
def test_parameter_counts(host, channels, gdm, gin):
    """With Φ of 109 x 1089 where the host learns it."""
    feat = gin + 2 * 9 * channels * (1 if host == "fista_net" else 9)
    expected = {"gdm": gdm, "cat": gin, "sub": gin, "gdm2": gin, "feat": feat}
    with torch.device("meta"):
        operator = BlockSampling(torch.zeros(109, 1089), 33, learned=host == "amp_net_tip")
        for step, count in expected.items():
            options = {"step": step, "channels": channels}
            network = create_network(f"gin_{host}", options, operator.sizes())
            assert complexity.parameters(SensingModel(operator, network)) == count


@pytest.mark.parametrize("host", HOSTS)
def test_gdm_is_the_host(host, operator):
    plain, gin = build(host, operator), build(f"gin_{host}", operator, step="gdm")
    gin.load_state_dict(plain.state_dict())
    y = operator(torch.rand(2, 1, 12, 18))
    expected, found = plain(y, operator), gin(y, operator)
    assert torch.equal(found.image, expected.image)
    assert found.penalties == expected.penalties


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("step", ["cat", "sub", "feat"])
def test_tied_kernels_show_the_first_layer_what_the_gdm_host_shows_it(host, step, operator):
    network = build(f"gin_{host}", operator, step=step)
    x, change = torch.rand(2, 1, 12, 18), torch.randn(2, 1, 12, 18)
    for entry in entries(network):
        r = F.conv2d(x - change, entry.weight[:, :1], entry.bias, padding=1)
        found = entry(prior_input(step, x, change)[:, -2:])
        torch.testing.assert_close(found, r, rtol=0, atol=1e-6)


@pytest.mark.parametrize("host", HOSTS)
def test_each_part_is_made_once(host, operator):
    """``gdm`` draws what its host draws; ``cat`` and ``sub`` do, and tie their entries."""
    torch.manual_seed(0)
    plain, after = build(host, operator).state_dict(), torch.rand(4)
    for step in ("gdm", "cat", "sub"):
        torch.manual_seed(0)
        found = build(f"gin_{host}", operator, step=step).state_dict()
        assert torch.equal(torch.rand(4), after)
        for key, value in plain.items():
            entry = found[key].shape != value.shape
            assert entry == (step != "gdm" and key.endswith(("entry.weight", "denoiser.0.weight")))
            assert torch.equal(found[key], torch.cat([value, -value], 1) if entry else value)


@pytest.mark.parametrize("host", HOSTS)
def test_untied_kernels_and_those_of_the_control_are_independent(host, operator):
    for options in ({"step": "cat", "tied": False}, {"step": "gdm2"}):
        for entry in entries(build(f"gin_{host}", operator, **options)):
            x, change = entry.weight.unbind(dim=1)
            assert not torch.allclose(x, -change, atol=1e-3)


@pytest.mark.parametrize("step", ["sub", "cat", "feat"])
@pytest.mark.parametrize(
    ("host", "size", "options"),
    [("ista_net_plus", 0.5, {}), ("fista_net", math.log1p(math.exp(0.1)), {"nonneg": False})],
)
def test_with_tied_kernels_a_stage_differs_from_the_host_only_in_what_it_adds_to(
    host, size, options, step, operator
):
    """``sub`` adds to r and is the host; ``cat`` and ``feat`` add to x = r + sg."""
    plain = build(host, operator, stages=1, **options)
    gin = build(f"gin_{host}", operator, stages=1, step=step, **options)
    state = plain.state_dict()
    for key in [key for key in state if key.endswith("entry.weight")]:
        state[key] = torch.cat([state[key], -state[key]], dim=1)
    gin.load_state_dict(state, strict=step != "feat")  # feat has its injections besides
    y = operator(torch.rand(2, 1, 12, 18))
    start = plain.start(y)
    change = size * operator.adjoint(operator(start) - y)
    expected, found = plain(y, operator), gin(y, operator)
    image = expected.image if step == "sub" else expected.image + change
    torch.testing.assert_close(found.image, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.penalties, expected.penalties, rtol=1e-4, atol=1e-7)


def test_the_input_of_each_step():
    x, change = torch.rand(2, 1, 3, 4), torch.rand(2, 1, 3, 4)
    r = x - change
    for step, base, seen in (
        ("gdm", r, [r]), ("cat", x, [x, change]), ("sub", r, [x, change]),
        ("feat", x, [x, change]), ("gdm2", r, [r, x]),
    ):  # fmt: skip
        given = prior_input(step, x, change)
        assert torch.equal(given[:, :1], base)
        assert torch.equal(given[:, -len(seen) :], torch.cat(seen, dim=1))


@pytest.mark.parametrize("step", ["cat", "sub", "gdm2"])
def test_a_stage_of_the_amp_host_in_functions(step, operator):
    """One block in float64, with Φ as a matrix."""
    operator = operator.double()
    network = build("gin_amp_net_tip", operator, step=step, variant="m", stages=1).double()
    phi, x, y = operator.matrix, torch.rand(36).double(), torch.rand(9).double()
    stage = network.iterations[0]
    with torch.no_grad():
        stage.data_step.step.fill_(0.7)
        change = 0.7 * phi.T @ (phi @ x - y)
        r = x - change
        pair = torch.stack([r, x] if step == "gdm2" else [x, change]).reshape(1, 2, 6, 6)
        noise = stage.denoiser(pair).flatten()
        expected = {
            "cat": x + noise,
            "sub": r + noise,
            "gdm2": x + noise - 0.7 * phi.T @ (phi @ (x + noise) - y),
        }[step]
        found = stage(x.reshape(1, 1, 6, 6), y.reshape(1, 9, 1, 1), operator)
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("host", HOSTS)
def test_feat_injects_the_gradient_before_the_relu_of_later_blocks(host, operator):
    network = build(f"gin_{host}", operator, step="feat")
    y = operator(torch.rand(1, 1, 12, 12))
    injected = [c for n, c in network.named_modules() if "injections." in n]
    assert len(injected) == (2 if host == "fista_net" else 4)
    before = network(y, operator).image
    for conv in injected:
        assert not conv.weight.any()
        with torch.no_grad():
            conv.weight.fill_(0.5)
        after = network(y, operator).image
        assert not torch.allclose(after, before, atol=1e-6)
        before = after


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("step", STEPS)
def test_every_step_trains_all_its_parameters(host, step, operator):
    network = build(f"gin_{host}", operator, step=step, stages=3)  # momentum acts in the third
    image = torch.rand(2, 1, 12, 18)
    network(operator(image), operator).image.square().mean().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("host", HOSTS)
def test_bad_steps_are_refused(host, operator):
    with pytest.raises(ValueError, match="step is 'gd', expected one of gdm, cat, sub, feat, gdm2"):
        build(f"gin_{host}", operator, step="gd")


@pytest.mark.parametrize("host", HOSTS)
def test_the_recipe_is_that_of_the_host(host):
    gin, plain = load_config(FOLDER / f"gin_{host}.yaml"), load_config(FOLDER / f"{host}.yaml")
    for section in ("sampling", "data", "training", "evaluation"):
        assert getattr(gin, section) == getattr(plain, section)
    assert gin.model.options == {**plain.model.options, "step": "cat"}
