"""LGM-Net against its specification, its public code and its own switches."""

import numpy as np
import pytest
import torch

from lgmnet import complexity
from lgmnet.models import LGMNet, SensingModel
from lgmnet.models.lgm_net import FDIM, from_published
from lgmnet.operators import BlockSampling, matrices


def count(**options):
    with torch.device("meta"):
        return complexity.parameters(LGMNet(**options))


@pytest.mark.parametrize(
    ("D", "dim", "dimf", "parameters"),
    [
        (1, 8, 8, 4_754_435), (2, 8, 8, 8_991_731), (3, 8, 8, 13_229_027),
        (4, 8, 8, 17_466_323), (5, 8, 8, 21_703_619), (6, 8, 8, 25_940_915),
        (4, 4, 4, 4_410_927), (4, 4, 8, 13_549_235), (4, 16, 8, 32_848_403),
        (4, 8, 4, 8_258_127), (4, 8, 16, 53_848_923), (4, 16, 16, 69_510_555),
    ],
)  # fmt: skip
def test_parameter_counts_of_the_public_code(D, dim, dimf, parameters):
    assert count(D=D, dim=dim, dimf=dimf) == parameters


@pytest.mark.parametrize(
    ("m", "gflop"), [(11, 176.56), (41, 178.07), (103, 181.21), (256, 188.95), (512, 201.90)]
)
def test_flops_of_the_public_code(m, gflop):
    """Two per multiply-accumulate, one 256 x 256 image."""
    with torch.device("meta"):
        model = SensingModel(BlockSampling(torch.zeros(m, 1024)), LGMNet())
    assert complexity.cost(model, 256, 256).flops / 1e9 == pytest.approx(gflop, abs=0.006)


@pytest.mark.shared
def test_public_code_and_weights_give_the_same_image(reference):
    name = reference / "lgmnet" / "lgmnet_r010_D1_dim4"
    state = torch.load(f"{name}.pkl", map_location="cpu", weights_only=True)
    with np.load(f"{name}_io.npz") as golden:
        x, x_hat = (torch.from_numpy(golden[key]).float() for key in ("x", "x_hat"))
    options, matrix, own = from_published(state)
    assert options == {"D": 1, "dim": 4, "dimf": 4}
    network = LGMNet(**options)
    network.load_state_dict(own)
    model = SensingModel(BlockSampling(matrix), network).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x).image, x_hat, rtol=0, atol=1e-5)


def test_the_importer_refuses_another_network():
    with pytest.raises(ValueError, match="not a weights file of LGM-Net.*fcs"):
        from_published({"fcs.0.lambda_step": torch.zeros(1)})


def published_state(D, dim, dimf, m):
    """A state in the authors' layout, made from ours: the inverse of the importer's renaming."""
    ours = LGMNet(D=D, dim=dim, dimf=dimf).state_dict()
    theirs = {
        ("start_z.", "z0."), ("lift.", "body.conv_first."), ("project.", "body.conv_last."),
        ("refine.", "body.kd."), ("mid_chain.iterations.", "body.mid.hqsM."),
        ("down_chains.0.iterations.", "body.down1.hqsD."),
        ("down_chains.1.iterations.", "body.down2.hqsD."),
        ("up_chains.0.iterations.", "body.up2.hqsU1."),
        ("up_chains.1.iterations.", "body.up1.hqsU1."),
        ("up_fusions.0.", "body.up2.hqsU.0."), ("up_fusions.1.", "body.up1.hqsU.0."),
        ("down_fusions.0.branches.1.", "body.down1.hqsD1.conv."),
        ("down_fusions.0.branches.2.", "body.down1.hqsD1.conv3."),
        ("down_fusions.0.branches.3.", "body.down1.hqsD1.conv5."),
        ("down_fusions.1.branches.1.", "body.down2.hqsD1.conv."),
        ("down_fusions.1.branches.2.", "body.down2.hqsD1.conv3."),
        ("down_fusions.1.branches.3.", "body.down2.hqsD1.conv5."),
        ("down_fusions.0.merge.", "body.down1.hqsD1.merge."),
        ("down_fusions.1.merge.", "body.down2.hqsD1.merge."),
        (".refine_z.", ".z."), (".data_step.fuse.", ".G."), (".refine_x.", ".init."),
        (".prior.", ".body."),
    }  # fmt: skip
    state = {"module.Phi_weight": torch.randn(m, 1, 32, 32)}
    for key, value in ours.items():
        name = key
        for mine, published in sorted(theirs, key=lambda pair: -len(pair[0])):
            name = name.replace(mine, published, 1) if mine in name else name
        state[f"module.{name}"] = value
    return state, ours


@pytest.mark.parametrize(("D", "dim", "dimf"), [(2, 4, 8), (3, 8, 4)])
def test_the_importer_finds_every_size(D, dim, dimf):
    state, ours = published_state(D, dim, dimf, 41)
    options, matrix, imported = from_published(state)
    assert options == {"D": D, "dim": dim, "dimf": dimf}
    assert matrix.shape == (41, 1024)
    assert imported.keys() == ours.keys()
    assert all(torch.equal(imported[key], ours[key]) for key in ours)


def shapes(**options):
    network = LGMNet(**{"D": 1, "dim": 2, "dimf": 4, **options})
    return {name: tuple(p.shape) for name, p in network.named_parameters()}


# Each switch, and the only part of the network whose tensors it may change.
SWITCHES = [
    ({"data_step": "gd_feature"}, ".data_step."),
    ({"data_step": "gd_pixel"}, ".data_step."),
    ({"data_step": "prl_sigmoid"}, ".data_step."),
    ({"data_step": "gin"}, ".data_step."),
    ({"data_step": "hqs"}, ".data_step."),
    ({"aegr_inputs": ("x", "z", "phity")}, ".data_step."),
    ({"aegr_refine": False}, ".refine_x."),
    ({"z_refine": "none"}, ".refine_z."),
    ({"z_refine": "plain"}, ".refine_z."),
    ({"avf_down": "strided2"}, "down_fusions."),
    ({"avf_down": "strided4"}, "down_fusions."),
    ({"avf_down": "maxpool"}, "down_fusions."),
    ({"avf_down": "avgpool"}, "down_fusions."),
    ({"avf_down": "unshuffle"}, "down_fusions."),
    ({"avf_branches": ("2", "8")}, "down_fusions."),
    ({"avf_up": "shuffle"}, "up_fusions."),
    ({"avf_up": "bilinear"}, "up_fusions."),
    ({"share_iterations": "iterations"}, "chain"),
    ({"share_iterations": "levels"}, "up_chains."),
    ({"mid_factor": 1}, "mid_chain."),
    ({"dim": 4}, ".prior."),
]


@pytest.mark.parametrize(("options", "part"), SWITCHES)
def test_a_switch_changes_the_tensors_of_its_part_and_no_other(options, part):
    default, changed = shapes(), shapes(**options)
    different = {k for k in default.keys() | changed.keys() if default.get(k) != changed.get(k)}
    assert different
    assert all(part in name for name in different)


def test_an_aegr_that_does_not_see_z_drops_what_would_make_a_z_that_nobody_reads():
    changed = shapes(D=2, aegr_inputs=("x", "gram"))
    assert not any(".refine_z." in name for name in changed)
    assert not any("iterations.0.prior." in name for name in changed)
    assert any("down_chains.0.iterations.1.prior." in name for name in changed)


# Switches without tensors of their own: the computation changes, the parameters do not.
@pytest.mark.parametrize(
    "options", [{"aegr_skip": True}, {"level1_skip": "x"}, {"level1_skip": "none"},
                {"outer_skip": "none"}],
)  # fmt: skip
def test_a_switch_without_tensors_changes_the_output_alone(options):
    assert shapes(**options) == shapes()
    operator = BlockSampling(matrices.orthonormal(20, 1024))
    networks = [LGMNet(D=1, dim=2, dimf=4, **o).eval() for o in ({}, options)]
    networks[1].load_state_dict(networks[0].state_dict())
    y = operator(torch.rand(1, 1, 64, 64))
    a, b = (network(y, operator).image for network in networks)
    assert float((a - b).detach().abs().max()) > 1e-6


@pytest.mark.parametrize(
    "options",
    [options for options, _ in SWITCHES]
    + [{"aegr_inputs": ("gram",)},
       {"variables": "single"}, {"scales": 1}, {"scales": 2}, {"phity_skip": True},
       {"variables": "single", "share_iterations": "levels", "level1_skip": "none"}],
)  # fmt: skip
def test_every_switch_runs_and_learns(options):
    network = LGMNet(**{"D": 2, "dim": 2, "dimf": 2, **options})
    operator = BlockSampling(matrices.orthonormal(20, 1024))
    network(operator(torch.rand(1, 1, 32, 64)), operator).image.square().mean().backward()
    idle = {n for n, p in network.named_parameters() if p.grad is None}
    assert not idle  # DDP waits forever for a parameter without a gradient


def test_single_variable_has_half_the_maps_between_scales():
    dual, single = shapes(), shapes(variables="single")
    assert single["lift.weight"][0] == dual["lift.weight"][0] // 2
    assert single["down_fusions.0.merge.weight"][0] == dual["down_fusions.0.merge.weight"][0] // 2
    assert single["up_fusions.0.weight"][1] == dual["up_fusions.0.weight"][1] // 2


def test_shared_iterations_are_the_same_weights_used_again():
    assert count(D=3, share_iterations="iterations") == count(D=1, mid_factor=1)


def test_phity_skip_starts_at_the_back_projection():
    operator = BlockSampling(matrices.orthonormal(20, 1024))
    y = operator(torch.rand(1, 1, 64, 64))
    image = LGMNet(D=1, dim=2, dimf=2, phity_skip=True)(y, operator).image
    assert torch.equal(image, operator.adjoint(y))


def test_without_gram_the_operator_is_not_called_in_the_iterations():
    class Counting(BlockSampling):
        calls = 0

        def gram(self, features, scale=1):
            Counting.calls += 1
            return super().gram(features, scale)

    operator = Counting(matrices.orthonormal(20, 1024))
    y = operator(torch.rand(1, 1, 64, 64))
    LGMNet(D=1, dim=2, dimf=2)(y, operator)
    assert Counting.calls == 6
    Counting.calls = 0
    LGMNet(D=1, dim=2, dimf=2, aegr_inputs=("x", "z", "phity"))(y, operator)
    assert Counting.calls == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": 4}, "scales is '4', expected one of 1, 2, 3"),
        ({"D": 0}, "D is 0, expected at least 1"),
        ({"data_step": "gdm"}, "expected one of aegr, gd_feature"),
        ({"aegr_inputs": ()}, "expected at least one of x, gram, z, phity"),
        ({"avf_branches": ("3",)}, "expected at least one of pool, 2, 4, 8"),
        ({"variables": "triple"}, "dual, single"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LGMNet(**options)


def test_fdim_gradients_in_double_precision():
    """Analytic against numerical gradients of one iteration, Φ among them."""
    stage = FDIM(
        4, 2, 2, data_step="aegr", aegr_inputs=("x", "gram", "z", "phity"), aegr_refine=True,
        aegr_skip=False, z_refine="rb", single=False,
    ).double()  # fmt: skip
    y = torch.randn(1, 3, 1, 1, dtype=torch.float64)
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    phi = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)

    def run(x, phi):
        operator = BlockSampling(phi.detach(), block_size=4, learned=False)
        operator.matrix = phi
        prior = torch.nn.functional.pixel_unshuffle(operator.adjoint(y), 2)
        return stage(x, 0.5 * x, operator, prior)

    assert torch.autograd.gradcheck(run, (x, phi), eps=1e-6, atol=1e-6)
