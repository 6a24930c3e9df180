"""Piecewise linear functions against NumPy."""

import numpy as np
import pytest
import torch

from lgmnet.unfolding.piecewise_linear import PiecewiseLinear, knots


def random_function(channels, count, **options):
    function = PiecewiseLinear(channels, knots(count), **options).double()
    for parameter in function.parameters():
        torch.nn.init.normal_(parameter)
    return function


@pytest.mark.parametrize("learned", [False, True])
def test_it_is_numpys_interpolation_with_a_slope_beyond_the_ends(learned):
    function = random_function(3, 11, end_slope=0.7, learned_ends=learned)
    features = torch.linspace(-2.5, 2.5, 2 * 3 * 4 * 50, dtype=torch.float64)
    features = features[torch.randperm(len(features))].view(2, 3, 4, 50)
    result = function(features)
    values = function.values.detach().numpy()
    slopes = function.end_slopes.detach().numpy() if learned else np.full((3, 2), 0.7)
    for channel in range(3):
        x = features[:, channel].numpy()
        expected = np.interp(x, np.linspace(-1, 1, 11), values[channel])
        expected += slopes[channel, 0] * np.minimum(x + 1, 0)
        expected += slopes[channel, 1] * np.maximum(x - 1, 0)
        np.testing.assert_allclose(result[:, channel].detach(), expected, atol=1e-12)


def test_the_identity_and_values_at_knots():
    function = PiecewiseLinear(2, knots(101)).double()
    features = torch.linspace(-3, 3, 120, dtype=torch.float64).view(1, 2, 6, 10)
    torch.testing.assert_close(function(features), features, rtol=0, atol=1e-7)
    function = random_function(1, 101)
    at_knots = torch.linspace(-1, 1, 101, dtype=torch.float64).view(1, 1, 1, 101)
    torch.testing.assert_close(function(at_knots).flatten(), function.values[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("learned", [False, True])
def test_gradients_reach_the_input_the_values_and_the_ends(learned):
    """Compared with differences; no input lies at a knot, where there is no derivative."""
    function = random_function(2, 5, learned_ends=learned)
    features = torch.tensor([-1.7, -0.9, -0.3, 0.1, 0.7, 1.4], dtype=torch.float64)
    features = features.repeat(2).view(1, 2, 2, 3).requires_grad_()
    names, values = zip(*function.named_parameters(), strict=True)

    def run(features, *values):
        return torch.func.functional_call(
            function, dict(zip(names, values, strict=True)), (features,)
        )

    assert torch.autograd.gradcheck(run, (features, *values))


def test_what_is_no_number_stays_none():
    function = PiecewiseLinear(1, knots(5))
    features = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.5]).view(1, 1, 1, 4)
    result = function(features).flatten()
    assert result[0].isnan()
    assert result[1:].tolist() == [torch.inf, -torch.inf, 0.5]


def test_one_knot_is_refused():
    with pytest.raises(ValueError, match="knots is 1, expected at least 2"):
        knots(1)
