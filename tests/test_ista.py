from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from lgmnet import complexity
from lgmnet.build import build_model
from lgmnet.config import ConfigError
from lgmnet.data.images import read_training_luma
from lgmnet.models import FISTA, ISTA
from lgmnet.models.ista_transforms import SCALING_FILTERS, BlockDCT, SparsePrior, Wavelet
from lgmnet.operators import BlockSampling, matrices
from lgmnet.training.checks import check_trainable
from lgmnet.weights.saved import find_weights
from tests.conftest import smooth_image, tiny_config

CONFIGS = Path(__file__).parents[1] / "configs"
SIDE = 16


@pytest.fixture(scope="module")
def problem():
    """A small image, its 25 % measurement and Φ, in float64."""
    operator = BlockSampling(matrices.gaussian(64, SIDE**2), SIDE, learned=False).double()
    image = torch.from_numpy(smooth_image(32, 48, 3) / 255.0)[None, None]
    return operator, operator(image)


def coefficients(image):
    """Orthonormal DCT of every block without DC, by scipy."""
    blocks = image[0, 0].numpy().reshape(32 // SIDE, SIDE, 48 // SIDE, SIDE).swapaxes(1, 2)
    code = dctn(blocks, axes=(2, 3), norm="ortho")
    code[:, :, 0, 0] = 0
    return code


def objective(image, operator, measurement, weight):
    misfit = 0.5 * float((operator(image) - measurement).square().sum())
    return misfit + weight * np.abs(coefficients(image)).sum()


def solve(kind, problem, relative=0.01, **options):
    """Iterates, λ, and the objective of every iterate."""
    operator, measurement = problem
    network = kind(SIDE, prior="block_dct", weight=relative, **{"tolerance": 0, **options}).double()
    weight = relative * np.abs(coefficients(operator.adjoint(measurement))).max()
    images = list(network.iterates(measurement, operator))
    return images, weight, [objective(x, operator, measurement, weight) for x in images]


@pytest.fixture(scope="module")
def slow(problem):
    return solve(ISTA, problem, relative=0.001, iterations=1000)


def test_the_objective_of_ista_never_rises(slow):
    _, _, values = slow
    assert len(values) == 1000
    assert (np.diff(values) <= 1e-7 * values[0]).all()
    assert values[-1] < 0.1 * values[0]


def test_fista_needs_less_than_150_steps_for_what_ista_does_in_1000(problem, slow):
    """For a small λ. For a large one 1000 steps of ISTA reach the minimum, and so does FISTA."""
    _, _, fast = solve(FISTA, problem, relative=0.001, iterations=149)
    assert min(fast) <= slow[2][-1]


def test_the_fixed_point_is_optimal(problem):
    """Ψ∇ = −λ sign(Ψx) where Ψx is not zero, |Ψ∇| ≤ λ elsewhere, and 0 at DC."""
    operator, measurement = problem
    images, weight, _ = solve(FISTA, problem, iterations=1500)
    gradient = operator.adjoint(operator(images[-1]) - measurement)
    code, slope = coefficients(images[-1]), coefficients(gradient)
    on = np.abs(code) > 1e-5
    assert 0.02 < on.mean() < 0.9
    np.testing.assert_allclose(slope[on], -weight * np.sign(code[on]), atol=1e-4 * weight)
    assert np.abs(slope).max() <= weight * (1 + 1e-4)
    means = torch.nn.functional.avg_pool2d(gradient, SIDE)
    assert float(means.abs().max()) < 1e-6


def test_one_step_of_ista_in_numpy(problem):
    operator, measurement = problem
    phi, y = operator.matrix.numpy(), measurement[0, :, 0, 0].numpy()
    network = ISTA(SIDE, iterations=1, prior="block_dct", weight=0.05).double()
    image = network(measurement[:, :, :1, :1], operator).image[0, 0].numpy()
    scale = np.linalg.norm(phi, 2) ** 2
    x = phi.T @ y
    peak = dctn(x.reshape(SIDE, SIDE), norm="ortho").ravel()[1:]
    r = x - phi.T @ (phi @ x - y) / scale
    code = dctn(r.reshape(SIDE, SIDE), norm="ortho")
    threshold = 0.05 * np.abs(peak).max() / scale
    shrunk = np.sign(code) * np.maximum(np.abs(code) - threshold, 0)
    shrunk[0, 0] = code[0, 0]
    expected = np.clip(dctn(shrunk, type=3, norm="ortho"), 0, 1)
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_images_of_a_batch_stop_by_themselves(problem):
    operator, measurement = problem
    network = FISTA(SIDE, iterations=400, prior="block_dct", tolerance=1e-3).double()
    both = torch.cat([measurement, torch.zeros_like(measurement)])
    together = list(network.iterates(both, operator))
    alone = list(network.iterates(measurement, operator))
    assert 3 < len(alone) < 400
    assert len(together) == len(alone)
    torch.testing.assert_close(together[-1][:1], alone[-1])
    assert not together[-1][1].any()


def test_continuation_starts_sparser_and_ends_at_the_same_objective(problem):
    """λ falls from 4 times its value in 140 iterations, and images are not done before."""
    images, _, values = solve(FISTA, problem, iterations=1000, continuation=4.0, tolerance=1e-3)
    plain_images, _, plain = solve(FISTA, problem, iterations=1000, tolerance=1e-3)
    assert len(plain_images) < 140 < len(images) < 1000
    kept, plain_kept = ((np.abs(coefficients(x[20])) > 1e-6).sum() for x in (images, plain_images))
    assert kept < plain_kept
    assert values[-1] == pytest.approx(plain[-1], rel=0.01)


TRANSFORMS = {
    "dct8": BlockDCT(8),
    "haar": Wavelet("haar", 3),
    "db4": Wavelet("db4", 3),
    "db4, filters longer than the coarse band": Wavelet("db4", 5),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_orthonormal(name):
    transform = TRANSFORMS[name]
    image = torch.rand(2, 1, 32, 64)
    bands = transform.analysis(image)
    energy = sum(band.square().sum((1, 2, 3)) for band in bands)
    torch.testing.assert_close(energy, image.square().sum((1, 2, 3)))
    torch.testing.assert_close(transform.synthesis(bands), image)
    assert sum(band.numel() for band in bands) == image.numel()


@pytest.mark.parametrize(("name", "moments"), [("haar", 1), ("db4", 4)])
def test_wavelets_have_their_vanishing_moments(name, moments):
    low = np.array(SCALING_FILTERS[name])
    high = low[::-1] * np.resize([1, -1], len(low))
    for power in range(moments):
        assert abs(high @ np.arange(len(low)) ** power) < 1e-9
    assert abs(high @ np.arange(len(low)) ** moments) > 0.1


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_constant_image_is_not_thresholded(name):
    prior = SparsePrior(TRANSFORMS[name], shifts=2)
    image = torch.full((1, 1, 32, 32), 0.7)
    torch.testing.assert_close(prior(image, torch.full((1, 1, 1, 1), 10.0)), image)
    assert float(prior.largest(image)) < 1e-5


def test_the_prior_shrinks_an_image_of_any_size():
    prior = SparsePrior(BlockDCT(8), shifts=4)
    image = torch.rand(2, 1, 33, 66)
    torch.testing.assert_close(prior(image, torch.zeros(2, 1, 1, 1)), image)
    small, large = (prior(image, torch.full((2, 1, 1, 1), t)) for t in (0.1, 0.5))
    assert large.var() < small.var() < image.var()


def test_cycle_spinning_is_the_mean_over_shifts():
    image, threshold = torch.rand(1, 1, 16, 16), torch.full((1, 1, 1, 1), 0.2)
    plain = SparsePrior(BlockDCT(8))
    shifts = [(0, 0), (0, 4), (4, 0), (4, 4)]
    rolled = [plain(image.roll(s, (2, 3)), threshold).roll((-s[0], -s[1]), (2, 3)) for s in shifts]
    expected = torch.stack(rolled).mean(0)
    torch.testing.assert_close(SparsePrior(BlockDCT(8), 2)(image, threshold), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "dct"}, "expected one of block_dct, image_dct8, wavelet"),
        ({"iterations": 0}, "iterations is 0, expected at least 1"),
        ({"continuation": 0.5}, "continuation is 0.5, expected at least 1"),
        ({"weight": -1.0}, "weight is -1.0, expected at least 0"),
        ({"shifts": 9}, "shifts is 9, expected 1 to 8"),
        ({"prior": "wavelet", "wavelet": "db3"}, "expected one of haar, db4"),
        ({"prior": "wavelet", "levels": 0}, "levels is 0, expected at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ISTA(32, **options)


def test_a_config_stands_in_for_weights():
    weights = find_weights(CONFIGS / "fista.yaml", ["sampling.ratio=0.25", "model.iterations=3"])
    model = weights.load()
    assert weights.name == "fista_r0.25"
    assert complexity.parameters(model) == 0
    assert list(model.state_dict()) == ["operator.matrix"]
    assert weights.metadata["phi_sha256"] == model.operator.fingerprint()
    again = find_weights(CONFIGS / "ista.yaml", ["sampling.ratio=0.25"])
    assert again.metadata == weights.metadata  # the same Φ for every algorithm


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (CONFIGS / "ista_net.yaml", [], "train it"),
        (CONFIGS / "fista.yaml", ["sampling.phi=learned"], "105,472 trained values"),
        (CONFIGS / "fista.yaml", ["sampling.phi_init=pca"], "needs training images"),
        (CONFIGS / "nothing.yaml", [], "there is no config file"),
        ("lgm_net_tiny_r0.10", ["sampling.ratio=0.25"], "contain their config"),
    ],
)
def test_what_needs_training_is_refused(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        find_weights(name, overrides)


def test_training_an_algorithm_without_parameters_is_refused():
    check_trainable(build_model(tiny_config()))
    with pytest.raises(ConfigError, match="score it without training"):
        check_trainable(find_weights(CONFIGS / "fista.yaml").load())


@pytest.mark.shared
def test_a_test_image_is_rebuilt_at_a_quarter_of_the_numbers(reference):
    """House with one shift; the published TVAL3 has 27.92 dB on average over Set11."""
    pixels = read_training_luma(reference.parent / "Set11" / "house.tif")
    image = torch.from_numpy(np.array(pixels))[None, None].float() / 255
    overrides = ["sampling.ratio=0.25", "model.shifts=2", "model.iterations=100"]
    model = find_weights(CONFIGS / "fista.yaml", overrides).load()
    mse = float((model(image).image - image).square().mean())
    assert 30 < -10 * np.log10(mse) < 34
