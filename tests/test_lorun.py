"""LoRun against its published sizes, the formula of a stage, and itself in other forms."""

import copy

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from lgmnet import complexity, runtime
from lgmnet.models import LoRun, SensingModel
from lgmnet.models.lorun import Stage
from lgmnet.operators import BlockSampling, BlurDown, kernels, matrices
from lgmnet.unfolding.low_rank import Adapters, LowRankUpdate

SPECTRAL = {"image_channels": 28, "algorithm": "hqs", "noise_channel": "map"}
UPSAMPLERS = ("up.0.0", "up.1.0", "up.2.0")
# Super-resolution: RGB and a noise map.
BLURRED = {"image_channels": 3, "denoiser": "residual_unet", "noise_channel": "map"}
SMALL = {"stages": 3, "denoiser": "transformer", "width": 8}


def size(**options):
    with torch.device("meta"):
        return complexity.parameters(LoRun(**options), frozen=True)


def moved(network, std=0.1):
    """As training leaves it: no update is zero."""
    for module in network.modules():
        if isinstance(module, LowRankUpdate):
            nn.init.normal_(module.left, std=std)
    return network


def sensing(network):
    return SensingModel(BlockSampling(matrices.orthonormal(20, 256), 16), network)


# Our count with ρ and λ, and that of the paper.
@pytest.mark.parametrize(
    ("options", "parameters", "published", "tolerance"),
    [
        ({"sharing": "independent"}, 4_656_690, 4.65e6, 0.01),
        ({}, 1_398_860, 1.42e6, 0.02),
        ({"denoiser": "transformer", "sharing": "independent"}, 104_589, 0.10e6, 0.05),
        ({"denoiser": "transformer"}, 54_775, 0.06e6, 0.1),
        ({"denoiser": "transformer", "gamma": 20}, 68_599, None, None),
        ({"denoiser": "transformer", "gamma": 80}, 130_807, None, None),
        ({"denoiser": "dpfb", "sharing": "independent"}, 15_676_119, 15.96e6, 0.02),
        ({"denoiser": "dpfb", "exclude": ("upsample",)}, 5_297_878, 5.23e6, 0.02),
        # Spectral imaging: 28 bands and a noise map.
        (SPECTRAL | {"sharing": "independent"}, 4_799_502, 4.80e6, 0.001),
        (SPECTRAL, 1_438_793, 1.43e6, 0.01),
        (BLURRED | {"sharing": "block1"}, 588_784 + 2, 0.59e6, 0.01),
        (BLURRED | {"sharing": "block1", "algorithm": "none"}, 588_784 + 1, 0.59e6, 0.01),
        (BLURRED | {"sharing": "independent"}, 5_299_056 + 18, 5.3e6, 0.001),
        (BLURRED | {"exclude": UPSAMPLERS}, 1_959_385, 1.96e6, 0.001),
        # A stand-in for the paper's second denoiser, so its 5.18 and 1.62 million are not expected.
        (SPECTRAL | {"denoiser": "hst", "sharing": "independent"}, 6_096_186, None, None),
        (SPECTRAL | {"denoiser": "hst"}, 1_368_246, None, None),
    ],
)
def test_parameter_counts(options, parameters, published, tolerance):
    assert size(**options) == parameters
    if published:
        assert parameters == pytest.approx(published, rel=tolerance)


def test_the_kinds_of_sharing_have_the_denoisers_they_should():
    one = size(sharing="block1", **SMALL) - 1  # and a step size
    assert size(sharing="shared", **SMALL) == one + 3
    assert size(sharing="independent", **SMALL) == 3 * one + 3
    assert len(list(LoRun("block1", **SMALL).stages())) == 1


@pytest.mark.parametrize("start", ["nearest", "bicubic"])
def test_super_resolution_may_start_from_an_enlarged_image(start):
    """Each denoiser is a residual U-Net whose last layer is zero, so x⁰ is the result."""
    operator = BlurDown(kernels.gaussian(1.0, 1.0, 0.0, side=5).float(), 2, channels=3)
    options = {**BLURRED, "algorithm": "none", "sharing": "shared", "stages": 2, "width": 4}
    network = LoRun(start=start, **options)
    nn.init.zeros_(network.backbone.last.weight)
    y = torch.rand(1, 3, 12, 9)
    assert torch.equal(network(y, operator).image, getattr(operator, start)(y))


def test_steps_start_where_they_are_told():
    steps = [stage.data_step for stage in LoRun(algorithm="pgd", step=4.5, **SMALL).iterations]
    assert [float(step.step) for step in steps] == [4.5] * 3
    steps = [stage.data_step for stage in LoRun(algorithm="hqs", step=0.01, **SMALL).iterations]
    assert [float(step.weight) for step in steps] == pytest.approx([0.01] * 3)


def test_starts_and_steps_that_do_not_fit_are_refused():
    block = BlockSampling(matrices.orthonormal(20, 64), 8)
    with pytest.raises(ValueError, match="BlockSampling is not super-resolution; set model.start"):
        LoRun(start="bicubic", **SMALL).check_operator(block)
    with pytest.raises(ValueError, match="start is 'cubic', expected one of adjoint, nearest"):
        LoRun(start="cubic", **SMALL)
    with pytest.raises(ValueError, match="step is 0, expected a number above 0"):
        LoRun(step=0, **SMALL)


class OneConvolution(nn.Module):
    """The smallest denoiser; it notes the variance that it is told."""

    def __init__(self, inputs=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, 1, 3, padding=1)

    def forward(self, image, variance):
        self.variance = variance
        return image[:, :1] + self.conv(image)


def numpy_denoise(image, weight, bias):
    return image + correlate2d(image, weight, "same") + bias


@pytest.mark.parametrize("algorithm", ["pgd", "hqs", "none"])
def test_a_stage_in_numpy(algorithm):
    """One block of 8 x 8 pixels, in double precision, with adapters of rank 1."""
    backbone = OneConvolution().double()
    stage = Stage(algorithm, False, False, adapters=Adapters(backbone)).double()
    update = moved(stage).adapters.updates["conv/weight"]
    operator = BlockSampling(matrices.gaussian(20, 64), 8).double()
    rng = np.random.default_rng(0)
    x, y = rng.random((8, 8)), rng.normal(size=20)
    phi = operator.matrix.detach().numpy()
    if algorithm == "none":
        z = x.ravel()
    elif algorithm == "pgd":
        z = x.ravel() - 0.5 * phi.T @ (phi @ x.ravel() - y)
    else:
        z = np.linalg.solve(phi.T @ phi + 0.5 * np.eye(64), phi.T @ y + 0.5 * x.ravel())
    change = update.left.detach().numpy() @ update.right.detach().numpy()
    weight = backbone.conv.weight.detach().numpy()[0, 0] + change.reshape(3, 3)
    expected = numpy_denoise(z.reshape(8, 8), weight, float(backbone.conv.bias.detach()))
    measurement = torch.from_numpy(y).reshape(1, 20, 1, 1)
    result = stage(torch.from_numpy(x)[None, None], measurement, operator, backbone)
    np.testing.assert_allclose(result.detach().numpy()[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(("algorithm", "variance"), [("pgd", 0.25), ("hqs", 1.0), ("none", 0.5)])
def test_the_denoiser_is_told_the_noise(algorithm, variance):
    """ρλ or λ/μ, all 0.5; and its square root as a channel."""
    stage = Stage(algorithm, tells_variance=True, noise_map=True, denoiser=OneConvolution(2))
    operator = BlockSampling(matrices.orthonormal(20, 64), 8)
    seen = []
    stage.denoiser.conv.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = torch.rand(2, 1, 16, 8)
    stage(image, operator(image), operator)
    assert float(stage.denoiser.variance.detach()) == pytest.approx(variance)
    level = torch.full((2, 16, 8), variance**0.5)
    torch.testing.assert_close(seen[0][:, 1].detach(), level)


def test_without_adapters_trained_it_is_the_shared_network():
    shared, adapted = sensing(LoRun("shared", **SMALL)), sensing(LoRun("lora", **SMALL))
    adapted.operator = shared.operator
    adapted.network.adopt(shared.network)
    image = torch.rand(2, 1, 32, 16)
    assert torch.equal(adapted(image).image, shared(image).image)


@pytest.mark.parametrize("denoiser", ["unet", "transformer", "dpfb"])
def test_merged_per_stage_is_the_same_network(denoiser):
    exclude = ("upsample",) if denoiser == "dpfb" else ()
    model = sensing(moved(LoRun(**{**SMALL, "denoiser": denoiser}, exclude=exclude), 0.02)).eval()
    before = copy.deepcopy(model.state_dict())
    merged = SensingModel(model.operator, model.network.merged()).eval()
    image = torch.rand(1, 1, 32, 48)
    torch.testing.assert_close(merged(image).image, model(image).image, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    block = LoRun("independent", **{**SMALL, "denoiser": denoiser})
    block.load_state_dict(merged.network.state_dict())


def test_merging_twice_is_refused():
    merged = LoRun(**SMALL).merged()
    with pytest.raises(ValueError, match="sharing 'independent' has no adapters.*merged already"):
        merged.merged()


def test_only_adapters_steps_and_phi_are_trained():
    model = sensing(LoRun(**SMALL))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith("network.backbone") for name in trained)
    assert "operator.matrix" in trained
    assert {f"network.iterations.{k}.data_step.step" for k in range(3)} < trained
    before = {k: v.clone() for k, v in model.network.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        image = torch.rand(2, 1, 16, 16)
        (model(image).image - image).square().mean().backward()
        optimizer.step()
    after = model.network.backbone.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in after.items())


@pytest.mark.parametrize("algorithm", ["pgd", "hqs"])
@pytest.mark.parametrize("sharing", ["block1", "independent", "shared", "lora"])
@pytest.mark.parametrize(("denoiser", "channel"), [("unet", "map"), ("dpfb", "none")])
def test_every_trained_value_gets_a_gradient(algorithm, sharing, denoiser, channel):
    options = {"algorithm": algorithm, "denoiser": denoiser, "noise_channel": channel}
    network = LoRun(sharing, stages=2, width=8, train_bias=True, train_norm=True, **options)
    model = sensing(moved(network))
    model(torch.rand(2, 1, 32, 32)).image.square().mean().backward()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert not [n for n, p in trained if p.grad is None or not p.grad.any()]


def test_recomputing_stages_gives_the_same_gradients():
    model = sensing(moved(LoRun(**SMALL)))
    again = copy.deepcopy(model)
    runtime.recompute_stages(again.network)
    image = torch.rand(1, 1, 32, 32)
    for each in (model, again):
        each(image).image.square().mean().backward()
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad), name


@pytest.mark.parametrize(("sharing", "stages"), [("block1", 1), ("shared", 2), ("lora", 3)])
def test_a_backbone_brings_its_steps(sharing, stages):
    """Further stages start like the last."""
    options = {**SMALL, "denoiser": "dpfb", "exclude": ("upsample",)}
    trained = LoRun(sharing, **{**options, "stages": stages})
    with torch.no_grad():
        for k, stage in enumerate(trained.stages()):
            stage.data_step.step.fill_(k)
            stage.regularisation.fill_(10 + k)
    network = LoRun(**options)
    network.adopt(trained)
    expected = [min(k, stages - 1) for k in range(3)]
    assert [float(s.data_step.step.detach()) for s in network.stages()] == expected
    assert [float(s.regularisation.detach()) - 10 for s in network.stages()] == expected
    ours, theirs = network.backbone.state_dict(), trained.backbone.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    own = next(iter(network.stages())).adapters.full["up/0/upsample/weight"]
    assert torch.equal(own, trained.backbone.up[0].upsample.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoiser": "unet"}, "the backbone has denoiser = unet, but model.denoiser is transf"),
        ({"width": 16}, "the backbone has width = 16, but model.width is 8"),
        ({"noise_channel": "map"}, "noise_channel = map"),
        ({"algorithm": "hqs"}, "algorithm = hqs"),
        ({"image_channels": 28}, "image_channels = 28, but model.image_channels is 1"),
        ({"sharing": "independent"}, "one denoiser per stage and no backbone"),
    ],
)
def test_another_backbone_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LoRun(**SMALL).adopt(LoRun(**{**SMALL, **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sharing": "none"}, "sharing is 'none', expected one of block1, independent"),
        ({"algorithm": "admm"}, "algorithm is 'admm', expected one of pgd, hqs"),
        ({"denoiser": "unets"}, "denoiser is 'unets', expected one of unet, transformer, dpfb"),
        ({"noise_channel": "yes"}, "noise_channel is 'yes'"),
        ({"stages": 0}, "stages is 0"),
        ({"gamma": 0}, "gamma is 0, which gives rank 0"),
        ({"gamma": 101}, "gamma is 101, which gives more than full rank"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LoRun(**{**SMALL, **options})
