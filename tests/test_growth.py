"""A larger LGM-Net starts from a smaller one with the same output, and then trains all of it."""

from dataclasses import replace

import pytest
import torch

from lgmnet.build import build_model
from lgmnet.config import ConfigError, ModelConfig
from lgmnet.models.lgm_net import LGMNet
from lgmnet.operators import BlockSampling
from lgmnet.operators.matrices import orthonormal
from lgmnet.runtime import Runtime
from lgmnet.training.loop import train
from lgmnet.weights.files import CheckpointError
from tests.conftest import tiny_config
from tests.test_training import final, records

CPU = Runtime(torch.device("cpu"))
SMALL = {"D": 1, "dim": 2, "dimf": 3, "scales": 2}
LARGER = {"dim": 3, "dimf": 5}
DEEPER = {"D": 3}


def network(seed, **options):
    """A network in which no parameter is zero, so that none is without effect."""
    torch.manual_seed(seed)
    made = LGMNet(**{**SMALL, **options}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made


@pytest.fixture(scope="module")
def measured():
    operator = BlockSampling(orthonormal(20, 64), 8).double()
    image = torch.rand(
        2, 1, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    return operator(image).detach(), operator


SHARED = [
    {},
    {"scales": 3},
    {"scales": 1},
    {"variables": "single"},
    {"phity_skip": True, "level1_skip": "x", "outer_skip": "none"},
    {"z_refine": "none", "aegr_refine": False},
    {"aegr_skip": True},
    {"aegr_inputs": ("z", "x", "gram")},
    {"avf_branches": ("8", "pool")},
    {"avf_down": "unshuffle", "avf_up": "shuffle"},
    {"avf_down": "strided4", "avf_up": "bilinear"},
    {"share_iterations": "levels"},
]
OTHER_STEPS = ["gd_feature", "gd_pixel", "gin", "prl_sigmoid", "hqs"]


@pytest.mark.parametrize("sizes", [LARGER, DEEPER, {**LARGER, **DEEPER}, {"mid_factor": 4}])
@pytest.mark.parametrize("shared", SHARED, ids=str)
def test_the_larger_network_computes_the_same_image(measured, shared, sizes):
    small, large = network(1, **shared), network(2, **{**shared, **sizes})
    expected = small(*measured).image
    assert not torch.allclose(large(*measured).image, expected)
    large.grow_from(small)
    torch.testing.assert_close(large(*measured).image, expected)


@pytest.mark.parametrize("step", OTHER_STEPS)
def test_other_data_steps_grow_in_width_only(measured, step):
    small, wide, deep = (
        network(k, data_step=step, **o) for k, o in enumerate([{}, LARGER, DEEPER])
    )
    wide.grow_from(small)
    torch.testing.assert_close(wide(*measured).image, small(*measured).image)
    with pytest.raises(ValueError, match="cannot hand on X"):
        deep.grow_from(small)


def test_stages_that_share_weights_grow_in_width_only(measured):
    small, wide, deep = (
        network(k, share_iterations="iterations", D=2, **o)
        for k, o in enumerate([{}, LARGER, {"mid_factor": 3}])
    )
    wide.grow_from(small)
    torch.testing.assert_close(wide(*measured).image, small(*measured).image)
    with pytest.raises(ValueError, match="share their weights"):
        deep.grow_from(small)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(tiny_config(), folder, CPU)
    return folder


def grown(trained, folder, steps, **options):
    start = {"start": str(trained / "last.safetensors"), "grow": True, "steps_per_epoch": steps}
    settings = {**start, "schedule": "constant", "log_every": 1}
    train(tiny_config(model=options, training=settings), folder, CPU)
    return folder


def test_a_run_goes_on_where_the_smaller_network_stopped_and_trains_every_weight(trained, tmp_path):
    sizes = {"dim": 3, "dimf": 3, "D": 2}
    one, more = (grown(trained, tmp_path / str(k), k, **sizes) for k in (1, 6))
    same = {"start": str(trained / "last.safetensors"), "steps_per_epoch": 1, "log_every": 1}
    train(tiny_config(training=same), tmp_path / "same", CPU)
    first, expected = (records(f, "train")[0]["loss"] for f in (one, tmp_path / "same"))
    assert first == pytest.approx(expected, rel=1e-5)
    before, after = final(one), final(more)
    still = [k for k in before if torch.equal(before[k], after[k])]
    assert not still


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 1}, "channels there"),
        ({"scales": 3}, "computes another image"),
        ({"scales": 1}, "it has no"),
        ({"outer_skip": "none"}, "computes another image"),
        ({"avf_down": "strided4"}, "it has no"),
    ],
)
def test_networks_that_do_not_fit_are_refused(trained, tmp_path, options, message):
    with pytest.raises(CheckpointError, match=f"cannot grow to this LGMNet: .*({message})"):
        grown(trained, tmp_path, 1, **options)


def test_only_some_networks_grow_and_only_from_weights(trained, tmp_path):
    with pytest.raises(ConfigError, match="set training.start, or grow=false"):
        tiny_config(training={"grow": True})
    settings = {"start": str(trained / "last.safetensors"), "grow": True}
    config = replace(tiny_config(training=settings), model=ModelConfig(name="ista_net_plus"))
    with pytest.raises(CheckpointError, match="these are weights of LGMNet"):
        train(config, tmp_path, CPU)
    ista = build_model(config).network
    with pytest.raises(ValueError, match="cannot grow from a smaller network"):
        ista.grow_from(ista)
