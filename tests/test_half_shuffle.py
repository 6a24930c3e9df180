"""The half-shuffle Transformer: its size, its attention pixel by pixel, and images of any size."""

import pytest
import torch

from lgmnet import complexity
from lgmnet.models import LoRun
from lgmnet.models.half_shuffle import HST, FarAttention, HalfShuffle
from lgmnet.operators import CodedAperture


def test_it_has_as_many_parameters_as_that_of_dauhst():
    assert complexity.parameters(HST(29, 28)) == 677_352


def test_its_tables_fit_the_images_of_the_benchmark():
    """On 256 x 320 pixels nothing is interpolated."""
    network = HST()
    for far, grid in ((network.encoder[1], (16, 20)), (network.middle, (8, 10))):
        attention = far.attention[1].far
        assert attention.grid == grid
        assert attention._resized(grid) is attention.table


def attend(q, k, v, table):
    """Attention of one head; q, k, v ``(n, d)``."""
    return ((q @ k.T) / q.shape[1] ** 0.5 + table).softmax(1) @ v


def test_half_of_the_channels_look_near_and_half_look_far():
    """Two heads of 3 channels, on 2 x 3 windows; every window and every pixel by itself."""
    module = HalfShuffle(6, 2).double()
    torch.nn.init.normal_(module.far.table)
    image = torch.randn(1, 6, 16, 24).double()
    table = module.far._resized((2, 3))[0]
    windows = [image[0, :, r : r + 8, c : c + 8] for r in (0, 8) for c in (0, 8, 16)]
    x = torch.stack([w.reshape(6, 64).T for w in windows])  # windows, pixels, channels
    q = x @ module.query.weight.T
    k, v = (x @ module.key_value.weight.T).split(6, dim=2)
    expected = torch.empty_like(x)
    for n in range(6):
        expected[n, :, :3] = attend(*(t[n, :, :3] for t in (q, k, v)), module.near.table[0])
    for p in range(64):
        expected[:, p, 3:] = attend(*(t[:, p, 3:] for t in (q, k, v)), table)
    expected = expected @ module.last.weight.T + module.last.bias
    found = module(image)
    for n, (r, c) in enumerate((r, c) for r in (0, 8) for c in (0, 8, 16)):
        window = found[0, :, r : r + 8, c : c + 8].reshape(6, 64).T
        torch.testing.assert_close(window, expected[n])


def test_a_table_is_resized_in_both_positions():
    """A table that is a sum of rows of both windows, linear, stays linear inside."""
    attention = FarAttention(1, 2)
    rows = torch.arange(16.0)[:, None].expand(16, 20).flatten()
    with torch.no_grad():
        attention.table[0] = rows[:, None] + 100 * rows[None]
    found = attention._resized((8, 10)).reshape(8, 10, 8, 10)
    halves = torch.arange(8.0) * 2 + 0.5
    expected = halves[:, None] + 100 * halves[None]
    torch.testing.assert_close(found[:, 3, :, 7], expected)


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (20, 96)])
def test_every_parameter_of_hst_gets_a_gradient(size):
    network = HST(5, 4, width=4)
    image = torch.rand(2, 5, *size)
    found = network(image)
    assert found.shape == (2, 4, *size)
    found.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    torch.testing.assert_close(network(image[1:]), found[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sharing", ["shared", "lora"])
def test_lorun_works_with_it(sharing):
    operator = CodedAperture(torch.rand(32, 64), bands=4, step=2)
    network = LoRun(
        sharing, stages=2, algorithm="hqs", denoiser="hst", width=4, noise_channel="map",
        image_channels=4,
    )  # fmt: skip
    image = torch.rand(1, 4, 32, 64)
    found = network(operator(image), operator).image
    assert found.shape == image.shape
    if sharing == "lora":
        torch.testing.assert_close(network.merged()(operator(image), operator).image, found)
