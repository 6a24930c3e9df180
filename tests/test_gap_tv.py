"""GAP-TV: its fixed point, its scale, and that total variation helps."""

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_tv_chambolle

from lgmnet.models import GAPTV, BackProjection, SensingModel
from lgmnet.operators import CodedAperture
from tests.conftest import smooth_image


@pytest.fixture
def scene():
    """A cube of 4 bands, and what measures it."""
    bands = np.stack([smooth_image(32, 40, k) for k in range(4)]) / 255
    mask = (torch.rand(32, 40, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    return torch.from_numpy(bands).float()[None], CodedAperture(mask, 4, 2)


def error(image, found):
    return float((found - image).norm() / image.norm())


def test_it_rebuilds_better_than_a_projection(scene):
    image, operator = scene
    y = operator(image)
    projected = operator.project(torch.zeros_like(image), y)
    found = SensingModel(operator, GAPTV()).reconstruct(y)
    assert error(image, found) < 0.35 * error(image, projected)
    back = SensingModel(operator, BackProjection()).reconstruct(y)
    assert error(image, found) < error(image, back)


def test_more_iterations_fit_the_measurement_better(scene):
    image, operator = scene
    y = operator(image)
    residuals = [
        float((operator(GAPTV(iterations=n)(y, operator).image) - y).norm() / y.norm())
        for n in (2, 10, 50)
    ]
    assert residuals[0] > residuals[1] > residuals[2]
    assert residuals[2] < 0.02


def test_without_weight_it_is_the_projection_of_black(scene):
    image, operator = scene
    y = operator(image)
    found = GAPTV(iterations=3, weight=0, accelerated=False)(y, operator).image
    torch.testing.assert_close(found, operator.project(torch.zeros_like(image), y))


def test_twice_the_light_is_twice_the_image(scene):
    image, operator = scene
    y = operator(image)
    one, two = (GAPTV(iterations=5)(factor * y, operator).image for factor in (1, 2))
    torch.testing.assert_close(2 * one, two)


def test_each_channel_is_denoised_by_itself(scene):
    """As scikit-image does it, which solves the same problem with another algorithm."""
    image, _ = scene
    noisy = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    found = GAPTV(dual_iterations=300).denoise(noisy, torch.full((1, 1, 1, 1), 0.1))
    for k in range(4):
        expected = denoise_tv_chambolle(noisy[0, k].numpy(), 0.1, eps=0, max_num_iter=3000)
        np.testing.assert_allclose(found[0, k].numpy(), expected, atol=5e-3)


def test_the_images_of_a_batch_have_their_own_threshold(scene):
    image, operator = scene
    y = operator(torch.cat([image, 0.1 * image.flip(3)]))
    together = GAPTV(iterations=3)(y, operator).image
    alone = torch.cat([GAPTV(iterations=3)(each[None], operator).image for each in y])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"weight": -1}, "weight is -1, expected at least 0"),
        ({"dual_iterations": 0}, "dual_iterations is 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GAPTV(**options)
