"""GAP-Net: its size, its start, and that every stage projects before it denoises."""

import torch

from lgmnet import complexity
from lgmnet.models import GAPNet
from lgmnet.operators import CodedAperture


def operator():
    mask = torch.rand(12, 10, generator=torch.Generator().manual_seed(0))
    return CodedAperture(mask, bands=4, step=2)


def test_it_has_as_many_parameters_as_the_public_code():
    network = GAPNet(image_channels=28)
    assert complexity.parameters(network) == 4_271_580
    assert complexity.parameters(network.denoisers[0]) == 474_620


def without_residual(stages):
    """A network whose U-Nets change nothing."""
    network = GAPNet(stages, width=8, image_channels=4)
    for denoiser in network.denoisers:
        torch.nn.init.zeros_(denoiser.last.weight)
        torch.nn.init.zeros_(denoiser.last.bias)
    return network


def test_without_residual_it_is_the_projection_of_the_start():
    image = torch.rand(2, 4, 12, 10)
    y = operator()(image)
    expected = operator().project(operator().adjoint(y), y)
    found = without_residual(3)(y, operator()).image
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_residual_of_a_stage_is_at_most_one():
    network = without_residual(1)
    torch.nn.init.constant_(network.denoisers[0].last.bias, -100.0)
    y = operator()(torch.rand(1, 4, 12, 10))
    projected = operator().project(operator().adjoint(y), y)
    torch.testing.assert_close(network(y, operator()).image, projected - 1, rtol=1e-4, atol=1e-5)
