"""The estimates that networks show on their way to the image."""

import pytest
import torch

from lgmnet.models import MODELS, BackProjection, Reconstruction, SensingModel, UnfoldingNetwork
from lgmnet.models.bicubic import Bicubic
from lgmnet.models.lgm_net import LGMNet
from lgmnet.models.watching import iterates
from lgmnet.operators import BlockSampling, matrices
from tests.test_models import SERVE_A_MASK, small_model

# Networks without an estimate before their first step.
WITHOUT_START = ("admm_csnet", "admm_net", "gap_tv", "pnp_gap")


@pytest.mark.parametrize("name", MODELS.names())
def test_the_last_estimate_is_the_result(name):
    """To the bit, whether or not the network is watched."""
    model = small_model(name).eval()
    y = model.measure(torch.rand(2, 1, 64, 64))
    plain = model.reconstruct(y)
    found = iterates(model, y)
    assert torch.equal(found[-1].image, plain)
    assert torch.equal(model.reconstruct(y), plain)
    if not isinstance(model.network, (BackProjection, Bicubic)):  # they have one step
        assert len(found) > 2
        assert (found[0].name == "start") == (name not in WITHOUT_START)
    assert all(each.image.shape == (2, 1, 64, 64) for each in found)


def test_every_network_with_stages_is_covered():
    assert set(SERVE_A_MASK) <= set(MODELS.names())


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"scales": 3, "D": 2}, 1 + 2 * 4 + 4),
        ({"scales": 2, "D": 1, "mid_factor": 3}, 1 + 2 + 3),
        ({"scales": 1, "D": 2, "variables": "single", "phity_skip": True}, 1 + 4),
        ({"scales": 3, "D": 1, "share_iterations": "levels", "level1_skip": "none"}, 1 + 4 + 2),
    ],
)
def test_lgm_net_shows_every_stage_at_every_scale(options, count):
    operator = BlockSampling(matrices.orthonormal(20, 1024), 32)
    model = SensingModel(operator, LGMNet(dim=4, dimf=4, **options)).eval()
    y = model.measure(torch.rand(1, 1, 64, 64))
    found = iterates(model, y)
    assert len(found) == count
    assert torch.equal(found[-1].image, model.reconstruct(y))


def test_a_network_that_shows_nothing_has_its_result():
    class Silent(UnfoldingNetwork):
        def forward(self, measurement, operator):
            return Reconstruction(operator.adjoint(measurement))

        def stages(self):
            return []

    model = SensingModel(BlockSampling(matrices.orthonormal(20, 64), 8), Silent())
    [only] = iterates(model, model.measure(torch.rand(1, 1, 16, 16)))
    assert only.name == "result"


def test_of_many_estimates_some_are_kept_and_the_last():
    operator = BlockSampling(matrices.orthonormal(20, 64), 8)
    network = MODELS.create("gap_tv", iterations=50, dual_iterations=1)
    model = SensingModel(operator, network)
    y = model.measure(torch.rand(1, 1, 16, 16))
    found = iterates(model, y, 8)
    assert [each.number for each in found] == [0, 8, 16, 24, 32, 40, 48, 49]
    assert found[1].name == "stage 9"
    assert torch.equal(found[-1].image, model.reconstruct(y))
