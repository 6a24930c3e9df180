"""Strips against the whole image at once."""

import pytest
import torch

from lgmnet.models import MODELS, LGMNet, SensingModel, UnfoldingNetwork
from lgmnet.models.base import Reconstruction
from lgmnet.models.steps import AtOnce
from lgmnet.operators import BlockSampling, matrices
from lgmnet.speed import inference
from lgmnet.speed.inference import optimize_for_inference
from lgmnet.speed.strips import InStrips, Strips, measure_sizes, parse_size, rebuild
from tests.conftest import assert_same_image
from tests.test_models import SMALL, small_model

# No blocks, or nothing to say of them.
OTHER = {"admm_net", "bicubic", "gap_net", "ista", "fista", "pnp_gap", "usrnet"}
WHOLE_IMAGE = (
    "admm_net", "bicubic", "fista", "gap_net", "gap_tv", "ista", "lorun", "pnp_gap", "prl",
    "usrnet",
)  # fmt: skip


def lgm_net(block_size=32, **options):
    operator = BlockSampling(matrices.orthonormal(10, block_size**2), block_size)
    return SensingModel(operator, LGMNet(**{"D": 1, "dim": 2, "dimf": 4, **options})).eval()


def check(model, image, heights):
    with torch.no_grad():
        y = model.measure(image)
        expected = model.reconstruct(y)
        for height in heights:
            strips = Strips(height)
            assert_same_image(rebuild(model, y, strips), expected)
    return strips


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_strips_of_every_height_give_the_same_image(rows):
    strips = check(lgm_net(), torch.rand(1, 1, 32 * rows, 64), range(1, rows + 2))
    # One block at scales 1 and 2, two at scale 4: eleven 3 x 3 convolutions in a row.
    assert strips.deepest == 2


# Every option that changes what a step depends on.
@pytest.mark.parametrize(
    "options",
    [{"D": 2}, {"scales": 1}, {"scales": 2}, {"variables": "single"}, {"data_step": "gd_pixel"},
     {"data_step": "hqs"}, {"data_step": "prl_sigmoid"}, {"data_step": "gin"},
     {"share_iterations": "levels"}, {"share_iterations": "iterations", "D": 2},
     {"avf_up": "bilinear"}, {"avf_down": "strided4"}, {"level1_skip": "x"},
     {"outer_skip": "none"}, {"phity_skip": True}, {"z_refine": "none"}],
)  # fmt: skip
def test_every_variant_of_lgm_net(options):
    check(lgm_net(**options), torch.rand(1, 1, 192, 32), (1, 2))


@pytest.mark.parametrize("data_step", ["aegr", "gd_pixel"])
@pytest.mark.parametrize("block_size", [8, 33])
def test_other_blocks(block_size, data_step):
    model = lgm_net(block_size, data_step=data_step)
    check(model, torch.rand(1, 1, 5 * model.multiple, model.multiple), (1, 2))


class TwoSteps(UnfoldingNetwork):
    """A network with steps of its own that only this file knows: a gradient, then a convolution."""

    stepwise = True

    def __init__(self):
        super().__init__()
        self.blur = torch.nn.Conv2d(2, 1, 13, padding=6)

    def forward(self, measurement, operator):
        return Reconstruction(self.unfold(measurement, operator, AtOnce()))

    def unfold(self, measurement, operator, run):
        start = run(operator.adjoint, 0, measurement)
        double = run.view(lambda image, like: (2 * image).to(like.dtype), start, start)
        x = run(self.mix, 6, run.keep(start), double)
        x = run(lambda x, y: x - operator.gram(x) + y, 0, x, double)
        return run(self.mix, 6, x, start)

    def mix(self, x, y):
        return self.blur(torch.cat([x, y], dim=1))

    def stages(self):
        return ()


def test_any_network_that_lists_its_steps():
    model = SensingModel(BlockSampling(matrices.orthonormal(5, 16), 4), TwoSteps()).eval()
    strips = check(model, torch.rand(1, 1, 36, 8), (1, 2, 5, 9))
    assert strips.deepest == 2
    assert InStrips(model, 2**30).strip_height(torch.zeros(1, 5, 9, 2)) == 9


def rows_reached(model, step_rows=9):
    """How far a NaN in the middle row of y spreads, in blocks; -1 if to the end."""
    y = torch.zeros(1, model.operator.measurements, step_rows, 1)
    y[:, :, step_rows // 2] = torch.nan
    with torch.no_grad():
        image = model.reconstruct(y)
    lost = image.isnan().unflatten(2, (step_rows, -1)).flatten(3).any(3)[0, 0]
    hit = lost.nonzero()
    return -1 if lost[0] else int(step_rows // 2 - hit.min())


@pytest.mark.parametrize("name", sorted(set(MODELS.names()) - OTHER))
def test_networks_reach_as_far_as_they_say(name):
    model = small_model(name).eval()
    reach = rows_reached(model)
    assert reach == (-1 if model.network.reach is None else model.network.reach)


@pytest.mark.parametrize("name", ["ista_net_plus", "fista_net"])
def test_priors_on_the_image_reach_further(name):
    operator = BlockSampling(matrices.orthonormal(20, 1024))
    network = MODELS.create(
        name, measurements=20, block_size=32, **SMALL[name], start="adjoint", prior_domain="image"
    )
    network.start.fit(operator.matrix.detach())
    model = SensingModel(operator, network).eval()
    assert rows_reached(model) == network.reach > 0
    check(model, torch.rand(1, 1, 256, 32), (1, 3))


@pytest.mark.parametrize("name", sorted(set(MODELS.names()) - set(WHOLE_IMAGE)))
def test_every_other_network_in_strips(name):
    model = small_model(name).eval()
    check(model, torch.rand(1, 1, 224, 64), (1, 2, 3, 7))
    check(optimize_for_inference(model), torch.rand(1, 1, 224, 64), (2,))


@pytest.mark.parametrize("name", WHOLE_IMAGE)
def test_networks_that_need_the_whole_image_say_so(name):
    with pytest.raises(ValueError, match="(needs|measures) the whole image at once"):
        InStrips(small_model(name), 2**30)


def test_the_memory_decides_the_height_and_holds():
    model = lgm_net()
    y = torch.zeros(1, 10, 40, 4)
    limited = InStrips(model, 2**60)
    assert limited.strip_height(y) == 40
    with pytest.raises(ValueError, match=r"are not enough for 1280 x 128 pixels; LGMNet needs"):
        InStrips(model, 2**20).strip_height(y)
    sizes = measure_sizes(model, y)
    # The pair, the pair that skips a scale, the first X, and Φᵀy.
    assert sizes.state == 4 * 1024 * (5 * 4 + 1)
    limits = [sizes.total(40, 4, height) for height in (1, 5, 17)]
    assert [InStrips(model, limit).strip_height(y) for limit in limits] == [1, 5, 17]


def test_limited_models_rebuild_batches():
    model = lgm_net()
    y = model.measure(torch.rand(2, 1, 192, 32)).detach()
    limited = InStrips(model, measure_sizes(model, y).total(6, 1, 1))
    assert limited.strip_height(y) == 1
    assert_same_image(limited.reconstruct(y), model.reconstruct(y))


def test_sizes_are_read_with_their_unit():
    assert parse_size("2GiB") == 2**31
    assert parse_size("1.5 MB") == 1_500_000
    for text in ("2", "GiB", "2 gigs", "-1GiB"):
        with pytest.raises(ValueError, match="is not a size"):
            parse_size(text)


def test_flags_together():
    model = inference.prepare(small_model("lgm_net"), True, "bf16", "1GiB")
    assert isinstance(model, InStrips)
    image = torch.rand(1, 1, 64, 64)
    plain = optimize_for_inference(small_model("lgm_net"), "bf16")
    assert model.reconstruct(model.measure(image)).shape == plain(image).image.shape
