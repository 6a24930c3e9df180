"""A detector: gain and offset, photons, noise, clipping and steps, in this order."""

import json

import pytest
import torch

from lgmnet.build import build_model
from lgmnet.config import ConfigError
from lgmnet.operators.detector import Detector, count_photons, quantised
from lgmnet.operators.noise import add_noise
from tests.conftest import tiny_config
from tests.test_scripts import run_main

CLEAN = torch.linspace(-1, 3, 4096).reshape(2, 2, 32, 32)
EVERYTHING = {
    "gain": 1.5,
    "offset": -0.2,
    "photons": 50.0,
    "clip": (-1.0, 2.0),
    "quantise": 6,
    "dither": True,
}


def test_a_detector_that_nobody_set_gives_the_measurement_itself():
    assert Detector().read(CLEAN) is CLEAN
    assert torch.equal(Detector().read(CLEAN, 0.1, "a"), add_noise(CLEAN, 0.1, "a"))


def test_the_effects_come_in_their_order():
    """Each step alone, composed by hand; any other order gives other numbers."""
    value = 1.5 * CLEAN - 0.2
    value = count_photons(value, 50.0, "a")
    value = add_noise(value, 0.1, "a").clamp(-1, 2)
    value = quantised(value, torch.tensor(-1.0), torch.tensor(2.0), 6, "a")
    torch.testing.assert_close(Detector(**EVERYTHING).read(CLEAN, 0.1, "a"), value)


@pytest.mark.parametrize("setting", ["photons", "dither"])
def test_everything_random_follows_the_name_of_the_image(setting):
    settings = {"photons": 50.0} if setting == "photons" else {"quantise": 3, "dither": True}
    detector = Detector(**settings)
    first, again, other = (detector.read(CLEAN, 0.0, name) for name in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(1)
    assert not torch.equal(detector.read(CLEAN), detector.read(CLEAN))  # as in training


def test_photons_have_the_mean_and_the_variance_of_poisson():
    value = torch.full((1, 200_000), -0.3)
    counted = count_photons(value, 40.0, "a")
    assert counted.mean().item() == pytest.approx(-0.3, rel=0.01)
    assert counted.var().item() == pytest.approx(0.3 / 40, rel=0.02)
    steps = counted * 40
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_steps_span_the_values_of_each_image(bits):
    values = torch.stack([CLEAN[0], 10 * CLEAN[1]])
    read = Detector(quantise=bits).read(values)
    for one, rounded in zip(values, read, strict=True):
        step = (one.max() - one.min()) / (2**bits - 1)
        assert len(rounded.unique()) <= 2**bits
        assert (rounded - one).abs().max() <= step / 2 * 1.001
        assert (rounded.min(), rounded.max()) == (one.min(), pytest.approx(one.max().item()))


def test_a_range_clips_and_defines_the_steps():
    read = Detector(quantise=1, clip=(0.0, 2.0)).read(CLEAN)
    assert read.unique().tolist() == [0, 2]
    assert Detector(clip=(0.0, 2.0)).read(CLEAN).aminmax() == (0, 2)


def test_dither_removes_the_error_of_the_mean():
    value = torch.full((1, 100_000), 0.3)
    low, high = torch.tensor(0.0), torch.tensor(1.0)
    assert quantised(value, low, high, 1).mean() == 0
    assert quantised(value, low, high, 1, "a").mean().item() == pytest.approx(0.3, abs=0.01)


def test_gradients_pass_steps_and_photons_and_end_at_the_range():
    value = CLEAN.clone().requires_grad_()
    Detector(**EVERYTHING).read(value, 0.0, "a").sum().backward()
    assert set(value.grad.unique().tolist()) == {0.0, 1.5}


def test_where_nothing_is_measured_y_stays_zero():
    support = torch.rand(1, 1, 32, 32) > 0.5
    read = Detector(offset=1.0, quantise=4).read(CLEAN * support, 0.1, "a", support)
    assert not read[~support.expand_as(read)].any()
    assert read[support.expand_as(read)].all()


def test_a_constant_measurement_can_be_quantised():
    assert torch.equal(Detector(quantise=8).read(torch.ones(1, 5, 2, 2)), torch.ones(1, 5, 2, 2))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gain": 0}, "sampling.gain is 0.0, expected > 0"),
        ({"photons": -1}, "sampling.photons is -1.0"),
        ({"clip": [1, 0]}, r"sampling.clip is \[1.0, 0.0\], expected \[low, high\]"),
        ({"clip": [1]}, r"expected \[low, high\]"),
        ({"quantise": 25}, "expected 1 to 24 bits"),
        ({"dither": True}, "sampling.dither needs steps"),
        ({"offset": float("nan")}, "sampling.offset is nan"),
    ],
)
def test_a_detector_that_cannot_be_meant_is_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(sampling=changed)


def test_a_model_measures_with_the_detector_of_its_settings():
    model = build_model(tiny_config(sampling={"offset": 0.5, "quantise": 8}))
    image = torch.rand(1, 1, 32, 32)
    expected = Detector(offset=0.5, quantise=8).read(model.operator(image))
    assert torch.equal(model.measure(image), expected)
    assert model.measured_by(model.operator).detector == model.detector


def test_bits_are_scored_and_recorded(weights, image_folder, tmp_path, monkeypatch):
    """Two bits change the score; 24 bits do not; other bits stand in another file."""

    def scored(*options):
        arguments = [weights, "--data", image_folder, "--output", tmp_path / "r", *options]
        assert run_main("test.py", arguments, monkeypatch) == 0

    for bits in ([], ["--bits", "2"], ["--bits", "24"]):
        scored(*bits)
    names = ["metrics.json", "metrics.quantise2.json", "metrics.quantise24.json"]
    found = [json.loads((tmp_path / "r" / name).read_text()) for name in names]
    plain, coarse, fine = (next(iter(each["datasets"].values()))["psnr"] for each in found)
    assert abs(plain - coarse) > 0.1
    assert fine == pytest.approx(plain, abs=1e-3)
    assert [each.get("detector") for each in found] == [None, {"quantise": 2}, {"quantise": 24}]
