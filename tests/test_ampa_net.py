import numpy as np
import pytest
import torch

from lgmnet import complexity, losses, report
from lgmnet.models import AMPANet, ampa_net, create_network
from lgmnet.models.ampa_net import AttentiveStart, ChannelAffine, ChannelAttention, normalisation
from lgmnet.operators import BlockSampling, matrices
from lgmnet.unfolding.starts import LinearStart
from tests.test_ista_net import numpy_conv

SIDE, M = 6, 9
SIZES = {"measurements": M, "block_size": SIDE}


@pytest.mark.parametrize(
    ("m", "amp", "ampa"),
    [
        (10, 360_477, 376_434), (43, 432_351, 484_245), (109, 576_099, 699_867),
        (272, 931_113, 1_232_388), (327, 1_050_903, 1_412_073), (436, 1_288_305, 1_768_176),
        (545, 1_525_707, 2_124_279),
    ],
)  # fmt: skip
def test_parameter_counts_of_the_public_code(m, amp, ampa):
    """With Φ and Q; norms that serve the penalty alone are not counted."""
    for name, expected in (("amp_net", amp), ("ampa_net", ampa)):
        sizes = {"measurements": m, "block_size": 33}
        network = create_network(name, {"orthogonality_norm": "shared"}, sizes)
        assert complexity.parameters(network) + 1089 * m == expected
        own = create_network(name, {}, sizes)
        assert complexity.parameters(own) - complexity.parameters(network) == 9 * 2 * 64


def small(name="amp_net", stages=2, channels=4, **options):
    """A network in float64 with Φ, started, every parameter away from its start."""
    operator = BlockSampling(matrices.gaussian(M, SIDE**2), SIDE).double()
    network = create_network(
        name, {"stages": stages, "channels": channels, **options}, SIZES
    ).double()
    for module in network.modules():
        if isinstance(module, LinearStart):
            module.fit(operator.matrix.detach())
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return network, operator


def numbers(module):
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def numpy_norm(v, w, name):
    return w[f"{name}.weight"] * v / np.sqrt(1.001) + w[f"{name}.bias"]


def numpy_transform(v, w, name, path):
    hidden = numpy_norm(numpy_conv(v, w[f"{name}.first.weight"]), w, f"{name}.norms.{path}")
    return numpy_conv(np.maximum(hidden, 0), w[f"{name}.second.weight"])


def numpy_cnn(r, w, attention=lambda v: v):
    """f(R) of one block ``(1, B, B)``, and its penalty."""
    features = numpy_conv(r, w["entry.weight"])
    code = np.maximum(numpy_norm(numpy_transform(features, w, "analysis", 0), w, "shrink.0"), 0)
    change = numpy_conv(attention(numpy_transform(code, w, "synthesis", 0)), w["exit.weight"])
    plain = numpy_transform(numpy_transform(features, w, "analysis", 1), w, "synthesis", 1)
    return r + change, np.mean(np.sqrt((plain - features) ** 2 + 1e-6))


@pytest.mark.parametrize("which", ["new", "old"])
def test_two_stages_of_amp_net_in_numpy(which):
    """One block, float64: the second stage sees the residual with its Onsager term."""
    network, operator = small(onsager_residual=which)
    phi, q = operator.matrix.detach().numpy(), network.start.matrix.detach().numpy()
    onsager = network.corrections.detach().numpy()
    y = phi @ np.random.default_rng(0).random(SIDE**2)
    x = q @ y
    z = y - phi @ x
    penalties = 0.0
    for k in range(2):
        r = (phi.T @ z + x).reshape(1, SIDE, SIDE)
        estimate, penalty = numpy_cnn(r, numbers(network.priors[k]))
        estimate = estimate.ravel()
        z = y - phi @ (estimate if which == "new" else x) + onsager[k] * z
        x, penalties = estimate, penalties + penalty
    image, terms = network(torch.from_numpy(y).reshape(1, M, 1, 1), operator)
    np.testing.assert_allclose(image.detach().numpy().ravel(), x, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(terms["orthogonality"].detach(), 0.01 * penalties, rtol=1e-10)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def numpy_attention(v, w, kind):
    """On pixels, then on channels, of features ``(c, B, B)``."""
    weights = numpy_conv(np.stack([v.mean(0), v.max(0)]), w["attention.0.weigh.weight"])
    v = v * sigmoid(weights + w["attention.0.weigh.bias"])
    squeeze, expand = w["attention.1.squeeze.weight"], w["attention.1.expand.weight"]
    centre = 0 if kind == "code" else 1
    logits = 0
    for k, pooled in enumerate((v.mean((1, 2)), v.max((1, 2)))):
        hidden = (squeeze[:, :, centre, centre] @ pooled)[:, None, None]
        norm = f"attention.1.norms.{k if kind == 'code' else 0}"
        hidden = np.maximum(numpy_norm(hidden, w, norm), 0)[:, 0, 0]
        assert hidden.any()  # else the test would see a constant
        logits = logits + expand[:, :, centre, centre] @ hidden
    return v * sigmoid(logits)[:, None, None]


@pytest.mark.parametrize("kind", ["code", "paper"])
def test_a_stage_of_ampa_net_in_numpy(kind):
    network, operator = small("ampa_net", 1, 16, start_attention=kind, channel_attention=kind)
    phi, w = operator.matrix.detach().numpy(), numbers(network)
    y = phi @ np.random.default_rng(0).random(SIDE**2)
    hidden = np.maximum(y if kind == "code" else w["start.weigh.0.weight"] @ y, 0)
    logits = w[f"start.weigh.{1 if kind == 'code' else 2}.weight"] @ hidden
    weights = np.exp(logits) / np.exp(logits).sum()
    x = weights * (w["start.linear.matrix"] @ y)
    r = (phi.T @ (y - phi @ x) + x).reshape(1, SIDE, SIDE)
    prior = numbers(network.priors[0])
    expected, _ = numpy_cnn(r, prior, lambda v: numpy_attention(v, prior, kind))
    image = network(torch.from_numpy(y).reshape(1, M, 1, 1), operator).image
    np.testing.assert_allclose(image.detach().numpy()[0], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["amp_net", "ampa_net"])
def test_every_parameter_learns_from_the_loss(name):
    """Also norms that serve the penalty alone, Φ and Q; the last φ is idle, as in the code."""
    network, operator = small(name, channels=16)
    image = torch.rand(4, 1, 12, 6, dtype=torch.float64)
    rebuilt = network(operator(image), operator)
    losses.total_loss(rebuilt, image, operator, "charbonnier")[0].backward()
    parameters = dict(network.named_parameters(), phi=operator.matrix)
    assert not [n for n, p in parameters.items() if p.grad is None or not p.grad.any()]
    assert network.corrections.grad[0] != 0 == network.corrections.grad[1]
    assert losses.CHARBONNIER_EPSILON == ampa_net.CHARBONNIER_EPSILON


@pytest.mark.parametrize("name", ["amp_net", "ampa_net"])
def test_every_block_is_rebuilt_by_itself(name):
    network, operator = small(name)
    image = torch.rand(1, 1, 12, 18, dtype=torch.float64)
    changed = image.clone()
    changed[:, :, :6, :6] += 0.3
    different = (
        network(operator(image), operator).image != network(operator(changed), operator).image
    )
    assert different[:, :, :6, :6].any()
    assert not different[:, :, 6:].any()
    assert not different[:, :, :, 6:].any()


@pytest.mark.parametrize(("kind", "reaches_image"), [("own", False), ("shared", True)])
def test_the_penalty_may_have_norms_of_its_own(kind, reaches_image):
    network, operator = small(orthogonality_norm=kind)
    y = operator(torch.rand(1, 1, 6, 6, dtype=torch.float64))
    image, terms = network(y, operator)
    with torch.no_grad():
        network.priors[0].analysis.norms[-1].weight.mul_(2)
    changed, changed_terms = network(y, operator)
    assert bool((image != changed).any()) == reaches_image
    assert terms["orthogonality"] != changed_terms["orthogonality"]


def test_the_penalty_is_computed_in_training_alone_and_weighted():
    network, operator = small()
    y = operator(torch.rand(1, 1, 6, 6, dtype=torch.float64))
    image, terms = network(y, operator)
    network.orthogonality_weight = 0.02
    torch.testing.assert_close(network(y, operator).penalties["orthogonality"],
                               2 * terms["orthogonality"])  # fmt: skip
    rebuilt = network.eval()(y, operator)
    assert torch.equal(rebuilt.image, image)
    assert not rebuilt.penalties


def test_the_orthogonality_of_phi_is_a_term_of_its_own():
    network, operator = small()
    image = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    rebuilt = network(operator(image), operator)
    _, terms = losses.total_loss(rebuilt, image, operator, orthogonality_weight=1.0)
    assert terms["orthogonality"] == rebuilt.penalties["orthogonality"]
    assert set(terms) == {"mse", "orthogonality", "phi_orthogonality"}


def test_the_affine_norm_is_batch_normalisation_that_never_learned_statistics():
    features = torch.randn(5, 3, 4, 4)
    batch, affine = normalisation("batch", 3), ChannelAffine(3)
    torch.testing.assert_close(batch.eval()(features), affine(features))
    normalised = batch.train()(features + 7)  # the paper's: by the statistics of the batch
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert normalisation("none", 3)(features) is features


@pytest.mark.parametrize("norm", ["affine", "batch", "none"])
def test_the_norm_is_that_of_every_part(norm):
    network = AMPANet(M, SIDE, stages=1, channels=4, norm=norm)
    kinds = {"affine": ChannelAffine, "batch": torch.nn.BatchNorm2d, "none": torch.nn.Identity}
    found = [m for m in network.modules() if isinstance(m, tuple(kinds.values()))]
    assert len(found) == 7  # D, Dᵀ and the two branches of the attention twice, η once
    assert {type(m) for m in found} == {kinds[norm]}


def test_weights_of_the_start_sum_to_one_or_to_the_number_of_pixels():
    y = torch.rand(2, M, 1, 1)
    ones = torch.nn.Module()
    ones.forward = lambda y: torch.ones(len(y), 1, SIDE, SIDE)
    for total, expected in (("one", 1.0), ("pixels", 36.0)):
        start = AttentiveStart(ones, M, SIDE, "code", total)
        torch.testing.assert_close(start(y).sum((1, 2, 3)), torch.full((2,), expected))
    network = AMPANet(M, SIDE, start_attention_sum="pixels", stages=1)
    assert network.start.total == 36


def test_ampa_net_without_attention_is_amp_net():
    network, operator = small()
    options = {"start_attention": "none", "spatial_attention": False, "channel_attention": "none"}
    plain, _ = small("ampa_net", **options)
    plain.load_state_dict(network.state_dict())
    y = operator(torch.rand(1, 1, 6, 6, dtype=torch.float64))
    assert torch.equal(plain(y, operator).image, network(y, operator).image)


def test_each_attention_can_be_left_out():
    def count(**options):
        return complexity.parameters(AMPANet(109, 33, stages=1, **options))

    full = count()
    assert full - count(start_attention="none") == 1089 * 109
    assert full - count(spatial_attention=False) == 19
    assert full - count(channel_attention="none") == 544
    assert count(start_attention="paper") - full == 109**2
    assert count(channel_attention="paper") - full == 8 * 512 - 16  # 3 x 3, one norm less


@pytest.mark.parametrize("name", ["amp_net", "ampa_net"])
def test_q_starts_small_or_as_asked_and_is_always_learned(name):
    for rule, std in (("gaussian", 0.01), ("adjoint", 1 / SIDE)):
        network = create_network(name, {"stages": 1, "channels": 4, "start": rule}, SIZES)
        (start,) = (m for m in network.modules() if isinstance(m, LinearStart))
        start.fit(matrices.gaussian(M, SIDE**2))
        assert float(start.matrix.detach().std()) == pytest.approx(std, rel=0.2)
        assert start.matrix.requires_grad
    assert network.corrections.tolist() == pytest.approx([0.1])


def test_the_published_start_of_phi_is_small():
    assert float(matrices.small_gaussian(109, 1089).std()) == pytest.approx(0.01, rel=0.02)


def test_published_values_are_transcribed():
    found = [report.published("amp_net", "Set11", ratio, "ampa").psnr for ratio in (0.5, 0.01)]
    assert found == [39.52, 20.48]
    assert report.published("ampa_net", "BSD68", 0.1, "ampa", "rgb").psnr == 27.58


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"onsager_residual": "none"}, "onsager_residual is 'none', expected one of new, old"),
        ({"norm": "layer"}, "norm is 'layer', expected one of affine, batch, none"),
        ({"orthogonality_norm": "both"}, "expected one of own, shared"),
        ({"stages": 0}, "stages is 0"),
        ({"start": "zero"}, "start is 'zero'"),
        ({"start_attention": "both"}, "start_attention is 'both', expected one of code, paper"),
        ({"start_attention_sum": "two"}, "expected one of one, pixels"),
        ({"channel_attention": "1x1"}, "channel_attention is '1x1', expected one of code, paper"),
        ({"channels": 3}, "channels is 3, channel attention needs 4 or more"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AMPANet(M, SIDE, **options)


def test_three_by_three_attention_on_one_pixel_learns_its_centre_alone():
    attention = ChannelAttention(4, "affine", "paper")
    attention(torch.rand(2, 4, 5, 5)).sum().backward()
    idle = attention.squeeze.weight.grad.clone()
    idle[:, :, 1, 1] = 0
    assert not idle.any()
