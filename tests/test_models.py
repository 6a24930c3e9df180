"""What every registered network must do, at small settings."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.fft import dct

from lgmnet import complexity, runtime
from lgmnet.models import MODELS, BackProjection, Bicubic, SensingModel, create_network
from lgmnet.operators import BlockSampling, BlurDown, FourierMask, kernels, masks, matrices
from lgmnet.unfolding.fitted import Fitted
from lgmnet.unfolding.low_rank import LowRankUpdate
from tests.conftest import smooth_image

# Networks that serve no operator but a Fourier mask, whose images have one size.
FOURIER = ("admm_net",)
# Networks that serve no operator but blur and downsampling.
BLUR = ("bicubic", "usrnet")
SMALL = {
    "admm_csnet": {"stages": 2, "channels": 8, "inner_steps": 2},
    "admm_net": {"stages": 2},
    "amp_net_tip": {"stages": 2, "channels": 8},
    # Norms that serve the penalty alone get no gradient from the image.
    "amp_net": {"stages": 2, "channels": 8, "orthogonality_norm": "shared"},
    "ampa_net": {"stages": 2, "channels": 16, "orthogonality_norm": "shared"},
    "back_projection": {},
    "bicubic": {},
    "fista": {"iterations": 5, "shifts": 2},
    "fista_net": {"stages": 3, "channels": 8},
    "gap_net": {"stages": 2, "width": 8},
    "gap_tv": {"iterations": 5},
    "gin_amp_net_tip": {"stages": 2, "channels": 8},
    "gin_fista_net": {"stages": 3, "channels": 8},
    "gin_ista_net_plus": {"stages": 2, "channels": 8},
    "ista": {"iterations": 5, "prior": "wavelet"},
    "ista_net": {"stages": 2, "channels": 8},
    "ista_net_plus": {"stages": 2, "channels": 8},
    "lgm_net": {"D": 1, "dim": 4, "dimf": 4},
    "lorun": {"stages": 2, "denoiser": "transformer"},
    "pnp_gap": {"iterations": 3, "width": 8},
    "prl": {"D": 1, "dim": 4, "dimf": 4},
    "usrnet": {"stages": 2, "widths": (4, 8, 8), "blocks": 1, "hidden": 8},
}


def small_network(name, operator):
    if name in FOURIER:
        return MODELS.create(name, **SMALL[name])
    network = create_network(name, SMALL[name], operator.sizes())
    if name in BLUR:
        return network
    blocks = torch.rand(4 * operator.measurements, operator.block_size**2)
    for module in network.modules():
        if isinstance(module, Fitted):
            module.fit(operator.matrix.detach(), blocks)
        if isinstance(module, LowRankUpdate):
            torch.nn.init.normal_(module.left, std=0.1)  # at zero the other factor has no gradient
    return network


def small_operator(name, block_size=32, size=(64, 64)):
    """An operator that the network works on; ``size`` is that of the images."""
    if name in FOURIER:
        return FourierMask(masks.pseudo_radial(size, 16))
    if name in BLUR:
        return BlurDown(kernels.gaussians()[1:2, 8:17, 8:17], scale=2)
    return BlockSampling(matrices.orthonormal(20, block_size**2), block_size)


def small_model(name, block_size=32, size=(64, 64)):
    operator = small_operator(name, block_size, size)
    return SensingModel(operator, small_network(name, operator))


@pytest.fixture(params=MODELS.names())
def model(request):
    """Of images of 64 x 64 pixels."""
    return small_model(request.param).eval()


@pytest.mark.parametrize("name", MODELS.names())
def test_image_keeps_its_shape(name):
    model = small_model(name, size=(64, 96)).eval()
    image = torch.rand(2, 1, 64, 96)
    assert model(image).image.shape == image.shape


def skip_untrained(model):
    if not complexity.parameters(model):
        pytest.skip("there is nothing to train")


def test_every_parameter_gets_a_gradient(model):
    """Of values beyond the knots of piecewise linear functions, too."""
    skip_untrained(model)
    model(4 * torch.rand(2, 1, 64, 64)).image.square().mean().backward()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    without = [n for n, p in trained if p.grad is None or not p.grad.any()]
    assert not without


def test_recomputation_gives_the_same_gradients(model):
    skip_untrained(model)
    image = torch.rand(1, 1, 64, 64)
    gradients = []
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        model(image).image.square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
        runtime.recompute_stages(model.network)
    assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


def test_same_input_gives_the_same_output(model):
    image = torch.rand(1, 1, 64, 64)
    assert torch.equal(model(image).image, model(image).image)


def test_penalties_are_computed_in_training_only_and_do_not_change_the_image(model):
    image = torch.rand(1, 1, 64, 64)
    used, trained = model(image), model.train()(image)
    assert not used.penalties
    if model.network.learn(image) is None:  # otherwise training does not measure
        assert torch.equal(trained.image, used.image)


def test_one_image_is_rebuilt_as_in_a_batch(model):
    images = torch.rand(3, 1, 64, 64)
    alone = torch.cat([model(images[k : k + 1]).image for k in range(3)])
    torch.testing.assert_close(model(images).image, alone, rtol=1e-5, atol=1e-6)


def test_measure_and_reconstruct_are_the_two_halves(model):
    image = torch.rand(1, 1, 64, 64)
    assert torch.equal(model.reconstruct(model.measure(image)), model(image).image)


def test_models_can_be_copied_and_pickled(model):
    image = torch.rand(1, 1, 64, 64)
    expected = model(image).image
    assert torch.equal(copy.deepcopy(model)(image).image, expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(image).image, expected)


@pytest.mark.parametrize("name", MODELS.names())
def test_noise_changes_the_measurement_by_its_standard_deviation(name):
    model = small_model(name, size=(128, 128))
    image = torch.rand(1, 1, 128, 128)
    clean = model.measure(image)
    model.noise_std = 0.2
    noisy = model.measure(image, "name")
    noise = (noisy - clean).detach()
    if model.operator.support is not None:
        noise = noise[model.operator.support.expand_as(noise)]
    assert float(noise.std()) == pytest.approx(0.2, rel=0.15)


def test_stages_are_modules_of_the_network(model):
    modules = set(model.network.modules())
    stages = list(model.network.stages())
    assert stages or isinstance(model.network, BackProjection | Bicubic)
    assert all(stage in modules for stage in stages)


# What networks that have priors on blocks need for an operator without them.
WITHOUT_BLOCKS = {"start": "back_projection", "prior_domain": "image"}
SERVE_A_MASK = {
    "admm_csnet": {}, "admm_net": {}, "fista": {}, "fista_net": WITHOUT_BLOCKS,
    "gin_fista_net": WITHOUT_BLOCKS, "gin_ista_net_plus": WITHOUT_BLOCKS, "ista": {}, "gap_tv": {},
    "ista_net": WITHOUT_BLOCKS, "ista_net_plus": WITHOUT_BLOCKS, "lgm_net": {}, "lorun": {},
    "prl": {},
}  # fmt: skip


@pytest.mark.parametrize("name", SERVE_A_MASK)
def test_networks_that_serve_a_fourier_mask(name):
    """The others begin with a linear map of blocks: AMP-Net in all its forms."""
    network = MODELS.create(name, **SMALL[name], **SERVE_A_MASK[name])
    for module in network.modules():
        if isinstance(module, LowRankUpdate):
            torch.nn.init.normal_(module.left, std=0.1)
    model = SensingModel(FourierMask(masks.pseudo_radial((64, 64), 16)), network)
    result = model(4 * torch.rand(2, 1, 64, 64))
    assert result.image.shape == (2, 1, 64, 64)
    if complexity.parameters(model):
        (result.image.square().mean() + sum(result.penalties.values())).backward()
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        assert not [n for n, p in trained if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("name", MODELS.names())
def test_one_batch_can_be_learned_by_heart(name):
    """Only the network learns. Φ takes the 64 lowest frequencies of a block, or some lines."""
    cosines = dct(np.eye(32), norm="ortho")[:8]
    matrix = torch.from_numpy(np.kron(cosines, cosines)).float()
    blocks = BlockSampling(matrix, learned=False)
    operator = small_operator(name) if name in FOURIER + BLUR else blocks
    model = SensingModel(operator, small_network(name, operator))
    if not complexity.parameters(model):
        pytest.skip("has nothing to learn")
    images = np.stack([smooth_image(64, 64, k) for k in range(2)])
    images = torch.from_numpy(images)[:, None].float() / 255
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    goal = 0.1 * float(images.var())
    for _ in range(400):
        loss = (model(images).image - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < goal:
            return
    pytest.fail(f"after 400 steps the loss is {float(loss.detach()):.4f}, not below {goal:.4f}")


@pytest.mark.gpu
def test_gpu_and_cpu_agree(model):
    image = torch.rand(1, 1, 64, 64)
    expected = model(image).image
    result = copy.deepcopy(model).cuda()(image.cuda()).image.cpu()
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_bf16_on_the_gpu_stays_close(model):
    image = torch.rand(1, 1, 64, 64).cuda()
    model = copy.deepcopy(model).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        reduced = model(image).image.float()
    assert float((reduced - model(image).image).abs().max()) < 0.05
