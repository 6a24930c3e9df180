"""A photograph in and out, in two lines of Python."""

import cv2
import numpy as np
import pytest
import torch

import lgmnet
from lgmnet.data.transforms import pad_to_block
from lgmnet.weights.measurement import measure_image
from tests.conftest import smooth_image


def psnr(one, two):
    return -10 * np.log10(np.mean((one.astype(float) - two.astype(float)) ** 2) / 255**2)


def test_a_grey_photograph_of_any_size_comes_back(tmp_path):
    image = smooth_image(50, 70)
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    rebuilt = lgmnet.reconstruct(tmp_path / "photo.png")
    assert rebuilt.mode == "L"
    assert rebuilt.size == (70, 50)
    assert psnr(np.asarray(rebuilt), image) > 30


def test_colours_come_back_in_their_order(tmp_path):
    bgr = np.dstack([smooth_image(40, 64, k) // (k + 1) for k in range(3)])
    cv2.imwrite(str(tmp_path / "photo.png"), bgr)
    rebuilt = lgmnet.reconstruct(str(tmp_path / "photo.png"), color=True)
    assert rebuilt.mode == "RGB"
    assert psnr(np.asarray(rebuilt), bgr[..., ::-1]) > 30
    assert lgmnet.reconstruct(tmp_path / "photo.png").mode == "L"


def test_weights_for_several_ratios_are_told_which(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), smooth_image(32, 64))
    low, high = (
        np.asarray(
            lgmnet.reconstruct(tmp_path / "photo.png", "lgm_net_tiny_all_ratios", condition=at)
        )
        for at in ("r0.01", "r0.50")
    )
    assert psnr(high, smooth_image(32, 64)) > psnr(low, smooth_image(32, 64))


def test_a_missing_photograph_and_a_network_for_three_channels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="none.png"):
        lgmnet.reconstruct(tmp_path / "none.png")
    config = tmp_path / "colour.yaml"
    config.write_text("model: {name: fista}\nsampling: {operator: blur_down, channels: 3}\n")
    with pytest.raises(ValueError, match="measures images of 3 channels, expected weights for one"):
        lgmnet.reconstruct(tmp_path / "none.png", config)


def test_the_border_is_repeated_up_to_whole_blocks():
    """So y is that of a larger image whose last columns and rows repeat."""
    model = lgmnet.load("lgm_net_tiny_r0.10")
    image = smooth_image(50, 70)
    larger = np.pad(image, ((0, 14), (0, 26)), mode="edge")
    y = measure_image(model, image, "x").values
    torch.testing.assert_close(y, measure_image(model, larger, "x").values)
    one = torch.rand(1, 1, 50, 70)
    assert not torch.equal(pad_to_block(one, 32), pad_to_block(one, 32, "replicate"))
