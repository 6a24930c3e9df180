"""Total variation against another implementation and exact solutions; ISTA and FISTA for MRI."""

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_tv_chambolle

from lgmnet.models import FISTA, ISTA
from lgmnet.models.total_variation import (
    TotalVariation,
    differences,
    differences_transposed,
    magnitude,
)
from lgmnet.operators import BlockSampling, FourierMask, masks, matrices
from tests.conftest import smooth_image


def bound(value, batch=1):
    return torch.full((batch, 1, 1, 1), value, dtype=torch.float64)


def variation(image):
    return float(magnitude(differences(image)).sum())


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (3, 1)])
def test_the_transposed_differences_are_the_transpose(size):
    image = torch.randn(2, 2, *size, dtype=torch.float64)
    pairs = torch.randn(2, 2, 2, *size, dtype=torch.float64)
    left = (differences(image) * pairs).sum()
    torch.testing.assert_close(left, (image * differences_transposed(pairs)).sum())


def test_differences_are_those_of_numpy_and_zero_at_the_end():
    image = torch.rand(1, 1, 5, 6, dtype=torch.float64)
    down, right = differences(image)[0, :, 0].numpy()
    np.testing.assert_array_equal(down[:-1], np.diff(image[0, 0], axis=0))
    np.testing.assert_array_equal(right[:, :-1], np.diff(image[0, 0], axis=1))
    assert not down[-1].any()
    assert not right[:, -1].any()


def test_it_is_the_denoiser_of_another_library():
    image = smooth_image(24, 32, 1) / 255.0
    expected = denoise_tv_chambolle(image, weight=0.1, eps=1e-12, max_num_iter=20_000)
    result = TotalVariation(3000)(torch.from_numpy(image)[None, None], bound(0.1))
    np.testing.assert_allclose(result[0, 0], expected, atol=1e-4)
    assert np.abs(expected - image).max() > 0.05


@pytest.mark.parametrize("direction", [[1.0], [0.6, -0.8]])
def test_an_edge_is_lowered_by_the_threshold_over_the_width(direction):
    """Exact: the left 4 columns rise by θ/4, the right 8 fall by θ/8; θ is 0.2.

    In two channels along the direction of the edge, whose length is one.
    """
    edge = torch.tensor([0.0] * 4 + [1.0] * 8, dtype=torch.float64).repeat(6, 1)
    lowered = torch.tensor([0.05] * 4 + [0.975] * 8, dtype=torch.float64).repeat(6, 1)
    along = torch.tensor(direction, dtype=torch.float64)[:, None, None]
    result = TotalVariation(2000)((along * edge)[None], bound(0.2))
    torch.testing.assert_close(result[0], along * lowered, rtol=0, atol=1e-6)


def test_thresholds_from_none_to_the_largest():
    image = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    prior = TotalVariation(500)
    torch.testing.assert_close(prior(image, bound(0.0, 2)), image)
    flat = image.mean((2, 3), keepdim=True).expand_as(image)
    torch.testing.assert_close(prior(image, bound(50.0, 2)), flat, rtol=0, atol=1e-3)
    assert prior.largest(image).shape == (2, 1, 1, 1)
    assert float(prior.largest(flat).max()) == 0


def test_images_of_a_batch_do_not_see_each_other():
    images, thresholds = torch.rand(3, 2, 9, 8), torch.tensor([0.02, 0.1, 0.3])[:, None, None, None]
    prior = TotalVariation(5)
    together = prior(images, thresholds)
    for k in range(3):
        alone = prior(images[k : k + 1], thresholds[k : k + 1])
        assert torch.equal(together[k : k + 1], alone)
    assert not torch.equal(together, prior(images, thresholds.flip(0)))


def test_fista_lowers_the_objective_of_total_variation():
    """λ is 0.01 of the largest difference of Φᵀy."""
    operator = BlockSampling(matrices.gaussian(64, 256), 16, learned=False).double()
    image = torch.from_numpy(smooth_image(32, 48, 3) / 255.0)[None, None]
    measurement = operator(image)
    network = FISTA(16, iterations=150, prior="tv", weight=0.01, dual_iterations=60, tolerance=0)
    weight = 0.01 * float(network.prior.largest(operator.adjoint(measurement)))

    def objective(x):
        return 0.5 * float((operator(x) - measurement).square().sum()) + weight * variation(x)

    found = list(network.iterates(measurement, operator))[-1]
    value = objective(found)
    assert value < 0.7 * objective(operator.adjoint(measurement))
    assert value < objective(image)
    for k in range(5):  # a convex function: no point beside the minimum is lower
        other = torch.from_numpy(smooth_image(32, 48, 10 + k) / 255.0)[None, None]
        assert objective(found + 1e-2 * (other - found)) > value


PRIORS = {
    "image_dct8": {"shifts": 2},
    "wavelet": {"levels": 2},
    "tv": {},
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", [ISTA, FISTA])
def test_a_complex_image_of_one_phase_is_rebuilt_as_the_real_one(prior, kind):
    """Only if magnitudes are thresholded. The mask is symmetric, so Φ is the same for both."""
    mask = masks.pseudo_radial((24, 32), 8)
    image = torch.from_numpy(smooth_image(24, 32, 2) / 255.0)[None, None]
    phase = torch.tensor([0.6, -0.8], dtype=torch.float64)[None, :, None, None]
    network = kind(iterations=15, prior=prior, weight=0.05, **PRIORS[prior]).double()
    real, both = FourierMask(mask), FourierMask(mask, channels=2)
    *_, expected = network.iterates(real(image), real)
    *_, result = network.iterates(both(phase * image), both)
    torch.testing.assert_close(result, phase * expected, rtol=0, atol=1e-6)
    assert float((expected - real.adjoint(real(image))).abs().max()) > 0.01
    rebuilt = network(both(phase * image), both).image
    torch.testing.assert_close(rebuilt, result)  # two channels are not clipped
    assert float(rebuilt.min()) < -0.1


def test_a_cartoon_is_found_from_a_few_lines():
    """As in Candès, Romberg and Tao, IEEE TIT 2006: few edges, few frequencies."""
    image = torch.zeros(1, 1, 48, 48, dtype=torch.float64)
    image[..., 10:36, 8:40] = 0.4
    image[..., 16:24, 14:30] = 0.9
    operator = FourierMask(masks.pseudo_radial((48, 48), 12))
    measurement = operator(image)

    def psnr(result):
        return -10 * float((result - image).square().mean().log10())

    network = FISTA(iterations=400, prior="tv", weight=0.001, continuation=30, dual_iterations=20)
    assert psnr(operator.adjoint(measurement)) < 26
    assert psnr(network(measurement, operator).image) > 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "block_dct"}, "the operator has no blocks; set model.prior to image_dct8"),
        ({"prior": "tv", "shifts": 4}, "shifts is 4, but tv does not depend on shifts"),
        ({"prior": "tv", "dual_iterations": 0}, "dual_iterations is 0, expected at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FISTA(**options)
