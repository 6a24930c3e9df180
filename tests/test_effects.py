"""Every setting of a run changes what the run leaves: none is read and then forgotten.

A run can ignore a setting and still learn, so it is compared with one that was set otherwise.
"""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch

from lgmnet import runtime
from lgmnet.build import Source, build_model
from lgmnet.config import DataConfig, EvaluationConfig, TrainingConfig
from lgmnet.data.crops import CropRule, DeviceCrops, generator
from lgmnet.data.datasets import open_test_set
from lgmnet.evaluation.rebuild import validate
from lgmnet.evaluation.scoring import Scoring, score_sets
from lgmnet.operators import BlockSamplingConfig
from lgmnet.runtime import Runtime
from lgmnet.training import gradients, states
from lgmnet.training.batches import open_batches
from lgmnet.training.images import open_data
from lgmnet.training.learner import OPERATOR_STREAM
from lgmnet.training.loop import train
from lgmnet.weights import saved
from tests.conftest import smooth_image, tiny_config
from tests.test_training import final, records, train_steps

CPU = Runtime(torch.device("cpu"))

EFFECTS = {
    "training.epochs": 2,
    "training.steps_per_epoch": 1,
    "training.batch_size": 2,
    "training.optimizer": "muon",
    "training.rate": 2e-3,
    "training.phi_rate": 0.5,
    "training.weight_decay": 0.1,
    "training.schedule": "constant",
    "training.warmup": 0.5,
    "training.clip": 1e-9,
    "training.loss": "l1",
    "training.measurement_weight": 1.0,
    "training.orthogonality_weight": 1.0,
    "training.l1_weight": 1.0,
    "training.seed": 1,
    "sampling.ratio": 0.2,
    "sampling.block_size": 16,
    "sampling.rounding": "floor",
    "sampling.phi": "fixed",
    "sampling.phi_init": "orthonormal",
    "sampling.phi_values": "sign",
    "sampling.noise_std": 0.05,
    "sampling.gain": 1.1,
    "sampling.offset": 0.1,
    "sampling.photons": 100,
    "sampling.clip": [-0.1, 0.1],
    "sampling.quantise": 4,
    "data.augment": "none",
    "data.crop_size": 64,
    "data.exclude": ["0.png"],
}
SCORING = {"protocol": "border4", "color": "rgb", "padding": "replicate"}
# Tested by themselves, or for changing nothing but memory and time.
ELSEWHERE = {
    "training": {
        "start", "start_phi", "grow", "minutes", "milestones", "ratio_exponent", "ema", "log_every",
        "validate_every", "accumulate", "precision", "channels_last", "recompute", "compile",
        "cuda_graphs", "timeout",
    },
    # Of one start, of files, and of quantise only: tests/test_patterns.py, test_own_phi.py and
    # test_detector.py.
    "sampling": {"ordering", "phi_scale", "dither"},
    "evaluation": {"datasets", *SCORING},
    "data": {"train", "source", "decode", "workers", "validation", "validation_images",
             "color"},
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for k in range(3):
        cv2.imwrite(str(folder / f"{k}.png"), smooth_image(64, 80, k))
    return folder


def short(images, **changes):
    """A run of two steps."""
    training = {"steps_per_epoch": 2, "log_every": 2, **changes.pop("training", {})}
    data = {"source": "device", **changes.pop("data", {})}
    return tiny_config(images, training=training, data=data, **changes)


def learned(folder, config):
    train(config, folder, CPU)
    return final(folder)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture(scope="module")
def base(images, tmp_path_factory):
    return learned(tmp_path_factory.mktemp("base"), short(images))


@pytest.mark.parametrize("setting", EFFECTS)
def test_a_setting_changes_what_is_learned(images, base, tmp_path, setting):
    section, key = setting.split(".")
    config = short(images, **{section: {key: EFFECTS[setting]}})
    assert not same(learned(tmp_path, config), base)


@pytest.mark.parametrize(
    "kind", [TrainingConfig, BlockSamplingConfig, DataConfig, EvaluationConfig]
)
def test_no_setting_is_left_out(kind):
    section = kind.__name__.removesuffix("Config").removeprefix("Block").lower()
    tested = {name.split(".")[1] for name in EFFECTS if name.startswith(f"{section}.")}
    names = {field.name for field in dataclasses.fields(kind)}
    assert tested | ELSEWHERE[section] == names
    assert not tested & ELSEWHERE[section]


def test_the_average_is_what_is_validated_and_kept(images, tmp_path):
    """After two steps: the first weights are taken, the second with a decay of 3/12."""
    (tmp_path / "held.txt").write_text("1.png\n2.png\n")
    config = short(
        images,
        training={"ema": 0.9, "rate": 5e-3, "schedule": "constant"},
        data={"validation": str(tmp_path / "held.txt"), "validation_images": 1},
    )
    one_step = dataclasses.replace(config.training, steps_per_epoch=1)
    first = learned(tmp_path / "first", dataclasses.replace(config, training=one_step))
    last = learned(tmp_path, config)
    best, ema = (saved.Weights(tmp_path / f"{n}.safetensors") for n in ("best", "ema"))
    average = ema.load().state_dict()
    for key in last:
        torch.testing.assert_close(average[key], first[key].lerp(last[key], 0.75))
    assert same(best.load().state_dict(), average)
    score = json.loads(best.metadata["metrics"])["validation_psnr"]
    held = open_data(config).validation
    assert score == pytest.approx(validate(best.load(), held, CPU, 1).psnr)
    raw = saved.Weights(tmp_path / "last.safetensors").load()
    assert abs(score - validate(raw, held, CPU, 1).psnr) > 0.01


def test_the_best_weights_outlive_worse_ones_and_a_resumption(images, tmp_path, monkeypatch):
    """It begins with Φᵀy, which is x here; the first step is small, the next ones destroy that."""
    (tmp_path / "held.txt").write_text("1.png\n")
    config = short(
        images,
        model={"phity_skip": True},
        sampling={"ratio": 1.0, "block_size": 8, "phi": "fixed", "phi_init": "orthonormal"},
        training={"steps_per_epoch": 4, "rate": 0.02, "warmup": 0.5, "validate_every": 1},
        data={"validation": str(tmp_path / "held.txt")},
    )
    folder = tmp_path / "run"
    train_steps(config, folder, 2, monkeypatch)
    state = torch.load(folder / "last.pt", weights_only=True)
    states.save_state(folder / "last.pt", {**state, "elapsed": 1000.0})
    train(config, folder, CPU, resume=True)
    scores = [line["psnr"] for line in records(folder, "validation")]
    best = saved.Weights(folder / "best.safetensors").metadata
    assert (len(scores), best["step"]) == (4, "1")
    assert json.loads(best["metrics"])["validation_psnr"] == scores[0] > max(scores[1:])
    assert torch.load(folder / "last.pt", weights_only=True)["elapsed"] > 1000
    last = saved.Weights(folder / "last.safetensors").metadata
    assert float(last["minutes"]) == pytest.approx(1000 / 60, abs=1)


def test_a_run_starts_from_its_seed_or_from_given_weights_with_or_without_their_phi(
    images, tmp_path
):
    """Steps too small to be seen."""

    def started(name, **training):
        return learned(tmp_path / name, short(images, training={"rate": 1e-30, **training}))

    one, two = started("one", seed=1), started("two", seed=2)
    mixed = started("mixed", seed=2, start=str(tmp_path / "one"), start_phi=False)
    for key in one:
        assert torch.equal(mixed[key], two[key] if key.startswith("operator.") else one[key]), key
    assert not torch.equal(one["operator.matrix"], two["operator.matrix"])
    assert not torch.equal(one["network.lift.weight"], two["network.lift.weight"])


def test_terms_of_the_loss_are_logged_with_their_weights(images, tmp_path):
    def terms(name, factors):
        keys = ("measurement_weight", "orthogonality_weight", "l1_weight")
        weights = {key: 0.1 * factor for key, factor in zip(keys, factors, strict=True)}
        training = {"loss": "charbonnier", "steps_per_epoch": 1, "log_every": 1, **weights}
        train(short(images, training=training), tmp_path / name, CPU)
        return records(tmp_path / name, "train")[0]

    plain, weighted = terms("plain", (1, 1, 1)), terms("weighted", (2, 3, 5))
    for name, factor in (("measurement", 2), ("phi_orthogonality", 3), ("absolute", 5)):
        assert weighted[name] == pytest.approx(factor * plain[name], rel=1e-5)
    parts = ("charbonnier", "measurement", "phi_orthogonality", "absolute")
    assert weighted["loss"] == pytest.approx(sum(weighted[name] for name in parts), rel=1e-5)


def test_a_line_of_the_log_is_the_mean_since_the_line_before(images, tmp_path):
    for every in (1, 2):
        train(short(images, training={"log_every": every}), tmp_path / str(every), CPU)
    each, mean = (records(tmp_path / name, "train") for name in ("1", "2"))
    for name in ("loss", "gradient_norm"):
        assert mean[0][name] == pytest.approx((each[0][name] + each[1][name]) / 2, rel=1e-6)


def test_parts_of_a_batch_leave_the_log_as_it_is(images, tmp_path):
    for count in (1, 4):
        train(short(images, training={"accumulate": count}), tmp_path / str(count), CPU)
    whole, parts = (records(tmp_path / name, "train")[0] for name in ("1", "4"))
    for name in ("loss", "gradient_norm"):
        assert whole[name] == pytest.approx(parts[name], rel=1e-4)


def test_every_step_draws_its_ratio_from_seed_and_step(images, tmp_path, monkeypatch):
    drawn = []
    original = gradients.backward

    def noted(wrapped, model, batch, operator, *rest):
        drawn.append(operator.measurements)
        return original(wrapped, model, batch, operator, *rest)

    monkeypatch.setattr(gradients, "backward", noted)
    config = short(images, sampling={"ratio": [0.01, 0.5]}, training={"steps_per_epoch": 4})
    train(config, tmp_path, CPU)
    seed, sampling = config.training.seed, config.sampling
    sources = [generator(seed, step, OPERATOR_STREAM) for step in range(4)]
    operator = sampling.make(Source())
    assert drawn == [sampling.draw(operator, source).measurements for source in sources]
    assert len(set(drawn)) > 1


def test_noise_differs_between_seeds_steps_and_processes():
    draws = []
    for seed, step, rank in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        runtime.seed_step(seed, step, Runtime(CPU.device, rank, 2))
        draws.append(float(torch.rand(())))
    assert len(set(draws)) == 4


@pytest.mark.parametrize("augment", ["none", "sample", "batch"])
def test_the_batches_of_a_run_follow_its_seed_size_and_augmentation(images, augment):
    config = short(images, data={"augment": augment, "crop_size": 64}, training={"seed": 3})
    train_images = open_data(config).train
    _, batches = open_batches(config, train_images, CPU, step=2)
    expected = DeviceCrops(train_images, CPU.device).batch(
        CropRule(64, 3, augment, batch=4), [8, 9, 10, 11]
    )
    assert torch.equal(next(batches), expected)


def test_validation_stops_at_its_limit_and_training_goes_on(images):
    config = short(images)
    seen = []
    model = build_model(config)
    validate(model, open_data(config).train, CPU, 2, lambda k, image: seen.append(k))
    assert seen == [0, 1]
    assert model.training


@pytest.fixture
def scored(tmp_path):
    """Scores weights that return Φᵀy on a colour image that is not in whole blocks."""
    sampling = {"ratio": 0.9, "block_size": 8, "phi_init": "orthonormal", "noise_std": 0.3}
    config = tiny_config(model={"phity_skip": True}, sampling=sampling)
    saved.save_weights(tmp_path / "w.safetensors", build_model(config), config)
    pixels = np.dstack([smooth_image(40, 70, k) for k in range(3)])
    cv2.imwrite(str(tmp_path / "a.png"), pixels)

    def score(noise_std=None, **settings):
        changed = dataclasses.replace(config.evaluation, **settings)
        weights = saved.Weights(tmp_path / "w.safetensors")
        sets = [open_test_set(str(tmp_path / "a.png"), [])]
        [scores] = score_sets(weights, sets, Scoring(rules=[changed], noise_std=noise_std), CPU)
        return scores["datasets"]["a"]["psnr"]

    return score


@pytest.mark.parametrize("key", SCORING)
def test_a_setting_changes_the_scores(scored, key):
    assert abs(scored(0.0, **{key: SCORING[key]}) - scored(0.0)) > 1e-3


def test_weights_are_scored_with_the_noise_they_were_trained_with(scored):
    assert scored() == scored(0.3) < scored(0.0)
