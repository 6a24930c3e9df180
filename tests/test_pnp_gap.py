"""Plug-and-play GAP: its transform, what it learns, and that it is GAP around its denoiser."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dct

from lgmnet.config import ConfigError, load_config
from lgmnet.models import GAPTV, PlugAndPlayGAP, SensingModel
from lgmnet.models.ista_transforms import dct_matrix
from lgmnet.operators import BlockSampling, CodedAperture, matrices
from lgmnet.runtime import Runtime
from lgmnet.training.checks import check_run, check_trainable

CONFIGS = Path(__file__).parents[1] / "configs"


def cubes(count=2, bands=6, side=16):
    """Spectra of two coefficients, over smooth images."""
    weights = torch.rand(count, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    weights = F.interpolate(weights, (side, side), mode="bilinear")
    return torch.einsum("rk,brhw->bkhw", dct_matrix(bands)[:2].float(), weights)


def aperture(bands=6, side=16):
    mask = torch.rand(side, side, generator=torch.Generator().manual_seed(1))
    return CodedAperture(mask, bands, 1)


def small(**options):
    torch.manual_seed(0)
    given = {"iterations": 3, "width": 8, "image_channels": 6, **options}
    return PlugAndPlayGAP(**given).eval()


def test_the_transform_is_that_of_scipy():
    spectrum = torch.rand(28, dtype=torch.float64)
    expected = dct(spectrum.numpy(), norm="ortho")
    torch.testing.assert_close(dct_matrix(28) @ spectrum, torch.from_numpy(expected))


@torch.no_grad()
def test_smooth_spectra_pass_and_others_do_not():
    network = small(coefficients=2)
    for parameter in network.denoiser.parameters():
        parameter.zero_()  # its result is added to the features
    smooth = cubes()
    rough = torch.einsum("k,bhw->bkhw", dct_matrix(6)[5].float(), torch.rand(2, 16, 16))
    torch.testing.assert_close(network.denoise(smooth + rough, 0.1), smooth)


@torch.no_grad()
def test_with_the_denoiser_of_total_variation_it_is_gap_tv():
    operator, tv = aperture(), GAPTV(iterations=4, weight=0.1)
    y = operator(cubes())
    network = small(iterations=4)
    projected = operator.project(torch.zeros(2, 6, 16, 16), y)
    threshold = 0.1 * projected.square().mean((1, 2, 3), keepdim=True).sqrt()
    network.denoise = lambda image, level: tv.denoise(image, threshold)
    torch.testing.assert_close(network(y, operator).image, tv(y, operator).image)


@torch.no_grad()
def test_the_noise_level_falls_geometrically():
    network, told = small(iterations=3, noise=(0.4, 0.1)), []
    network.denoise = lambda image, level: told.append(level) or image
    network(aperture()(cubes()), aperture())
    assert told == pytest.approx([0.4, 0.2, 0.1])


@torch.no_grad()
def test_the_unit_of_the_measurement_does_not_matter():
    operator, network = aperture(), small(brightness=0.2)
    y = operator(cubes())
    factors = torch.tensor([3, 0.1]).view(2, 1, 1, 1)
    found, scaled = network(y, operator).image, network(factors * y, operator).image
    torch.testing.assert_close(scaled, factors * found)
    seen = []
    network(y, operator, lambda image, _: seen.append(image))
    torch.testing.assert_close(seen[-1], found)
    assert network(0 * y, operator).image.isfinite().all()


def test_training_removes_noise_and_does_not_measure():
    model = SensingModel(aperture(), small(coefficients=2, noise=(0.3, 0.1))).train()
    model.operator.forward = None  # a measurement would fail
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    images, losses = cubes(8), []
    for _ in range(200):
        loss = (model(images).image - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_a_trained_denoiser_rebuilds_better_than_a_projection():
    images, operator = cubes(8), aperture()
    model = SensingModel(operator, small(iterations=20, coefficients=2, noise=(0.5, 0.05))).train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        (model(images).image - images).square().mean().backward()
        optimizer.step()
    y = operator(images)
    start = operator.project(torch.zeros_like(images), y)
    found = model.eval().reconstruct(y)
    assert (found - images).norm() < 0.5 * (start - images).norm()


def test_a_learned_matrix_is_refused():
    model = SensingModel(BlockSampling(matrices.orthonormal(4, 16), 4), small(image_channels=1))
    with pytest.raises(ConfigError, match="cannot learn Φ; set sampling.phi=fixed"):
        check_trainable(model)
    model.operator.requires_grad_(False)
    check_trainable(model)


@pytest.mark.parametrize("setting", ["training.compile=true", "training.ratio_exponent=0.8"])
def test_settings_without_a_meaning_are_refused(setting):
    config = load_config(
        CONFIGS / "cassi_pnp_gap.yaml", ["sampling.mask=random", "model.width=4", setting]
    )
    with pytest.raises(ConfigError, match="has no meaning for pnp_gap"):
        check_run(config, Runtime(torch.device("cpu")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"denoiser": "none"}, "denoiser is 'none'"),
        ({"noise": (0.1, 0.2)}, r"noise is \[0.1, 0.2\], expected \[first, last\]"),
        ({"noise": (0.1,)}, r"expected \[first, last\]"),
        ({"coefficients": 7}, "coefficients is 7, expected at most the channels of an image, 6"),
        ({"brightness": -1}, "brightness is -1, expected at least 0"),
        ({"coefficients": -1}, "coefficients is -1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
