"""The denoisers of LoRun: sizes, any side, and parts of them in numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lgmnet import complexity
from lgmnet.models.denoisers import ChannelAttention, ChannelNorm, Transformer, UNet, complete
from lgmnet.models.dual_path import DualPath, Fusion, GatedBlock, StripAttention

DENOISERS = {"unet": UNet, "transformer": Transformer, "dpfb": DualPath}


@pytest.mark.parametrize(
    ("name", "parameters"), [("unet", 517_409), ("transformer", 11_620), ("dpfb", 1_741_789)]
)
def test_parameter_counts(name, parameters):
    assert complexity.parameters(DENOISERS[name]()) == parameters


def test_parts_of_the_dual_path_that_were_counted_in_public_code():
    """The stem; all the rest is 449 values smaller than an iteration of CPP-Net."""
    assert complexity.parameters(DualPath().memory) == 354_656


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("shape", [(64, 32), (33, 66), (5, 3)])
def test_any_side(name, shape):
    denoiser = DENOISERS[name](width=8)
    image = torch.rand(2, 1, *shape)
    assert denoiser(image).shape == image.shape


@pytest.mark.parametrize(("name", "multiple"), [("unet", 4), ("dpfb", 8)])
def test_odd_sides_are_reflected_and_cropped(name, multiple):
    denoiser = DENOISERS[name](width=8)
    image = torch.rand(1, 1, 21, 30)
    padded = F.pad(image, (0, -30 % multiple, 0, -21 % multiple), mode="reflect")
    torch.testing.assert_close(denoiser(image), denoiser(padded)[..., :21, :30])


def test_whole_sides_are_left_alone():
    image = torch.rand(1, 1, 16, 8)
    assert complete(image, 8) is image


@pytest.mark.parametrize("name", ["unet", "transformer"])
def test_the_result_is_added_to_the_image(name):
    """Not to the channels that describe it."""
    denoiser = DENOISERS[name](inputs=3, outputs=2, width=8)
    torch.nn.init.zeros_(denoiser.last.weight)
    if denoiser.last.bias is not None:
        torch.nn.init.zeros_(denoiser.last.bias)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(denoiser(image), image[:, :2])


def test_the_variance_thresholds_features_of_the_dual_path():
    denoiser = DualPath(width=8)
    image = torch.rand(1, 1, 16, 16)
    assert not torch.equal(denoiser(image, 0.1), denoiser(image, 2.0))


def test_channel_norm_in_numpy():
    norm = ChannelNorm(6).double()
    torch.nn.init.normal_(norm.weight)
    features = np.random.default_rng(0).normal(size=(2, 6, 3, 4))
    mean, std = features.mean(1, keepdims=True), np.sqrt(features.var(1, keepdims=True) + 1e-6)
    expected = (features - mean) / std * norm.weight.detach().numpy()[:, None, None]
    result = norm(torch.from_numpy(features)).detach().numpy()
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_channel_attention_in_numpy():
    """Rows of q and k are images of one channel, of length one."""
    attention = ChannelAttention(4).double()
    torch.nn.init.constant_(attention.temperature, 3.0)
    features = torch.rand(1, 4, 5, 6, dtype=torch.float64)
    q, k, v = attention.qkv(features).detach().numpy()[0].reshape(3, 4, 30)
    q, k = (t / np.linalg.norm(t, axis=1, keepdims=True) for t in (q, k))
    weights = np.exp(3 * q @ k.T)
    mixed = (weights / weights.sum(1, keepdims=True)) @ v
    project = attention.project.weight.detach().numpy()[:, :, 0, 0]
    expected = (project @ mixed).reshape(4, 5, 6)
    np.testing.assert_allclose(attention(features).detach().numpy()[0], expected, atol=1e-12)


def test_strip_attention_in_numpy():
    """One image, two channels of 4 x 6 pixels; the coarse one has 4 channels of half the side."""
    attention = StripAttention(8).double()
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(1, 8, 4, 6)), rng.normal(size=(1, 16, 2, 3))
    rows, columns = fine.mean(3), fine.mean(2)
    coarse_rows, coarse_columns = coarse.mean(3).reshape(8, 4), coarse.mean(2).reshape(8, 6)
    first = np.einsum("bch,cw->bchw", rows, coarse_columns)
    second = np.einsum("ch,bcw->bchw", coarse_rows, columns)
    gates = attention.query(torch.from_numpy(first)) * attention.key(torch.from_numpy(second))
    expected = attention.value(torch.from_numpy(fine)) * gates
    result = attention(torch.from_numpy(fine), torch.from_numpy(coarse))
    torch.testing.assert_close(result, expected)


def test_a_fusion_takes_scales_of_any_factor():
    for factor in (2, 4, 8):
        fine, coarse = (
            torch.rand(2, 8, 16, 24),
            torch.rand(2, 8 * factor, 16 // factor, 24 // factor),
        )
        assert Fusion(8, 8 * factor)(fine, coarse).shape == fine.shape


def test_a_gated_block_adds_to_its_input():
    block = GatedBlock(8)
    torch.nn.init.zeros_(block.body[-1].weight)
    torch.nn.init.zeros_(block.body[-1].bias)
    features = torch.rand(1, 8, 4, 4)
    assert torch.equal(block(features), features)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {"width": 0}, "width is 0"),
        ("transformer", {"blocks": 0}, "blocks is 0"),
        ("dpfb", {"width": 4}, "width is 4, expected at least 8"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        DENOISERS[name](**options)
