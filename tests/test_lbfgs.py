"""L-BFGS: one iteration with a line search per step, on one batch."""

from itertools import pairwise

import pytest
import torch

from lgmnet.config import ConfigError
from lgmnet.runtime import Runtime
from lgmnet.training.batches import open_batches
from lgmnet.training.images import open_data
from lgmnet.training.loop import train
from tests.conftest import tiny_config
from tests.test_training import final, records, train_steps

CPU = Runtime(torch.device("cpu"))
LBFGS = {
    "optimizer": "lbfgs", "rate": 1.0, "schedule": "constant", "epochs": 1, "steps_per_epoch": 8,
    "log_every": 1, "batch_size": 4,
}  # fmt: skip


def config(images, **training):
    return tiny_config(images, training=LBFGS | training)


def test_the_loss_of_its_batch_never_rises(image_folder, tmp_path):
    train(config(image_folder), tmp_path / "run", CPU)
    losses = [line["loss"] for line in records(tmp_path / "run", "train")]
    assert len(losses) == 8
    assert all(after <= before for before, after in pairwise(losses))
    assert losses[-1] < 0.6 * losses[0]


def test_every_step_has_the_same_batch_and_noise(image_folder, tmp_path):
    settings = config(image_folder)
    images = open_data(settings).train
    first, later = (next(open_batches(settings, images, CPU, step)[1]) for step in (0, 5))
    assert torch.equal(first, later)
    noisy = tiny_config(image_folder, training=LBFGS, sampling={"noise_std": 0.1})
    train(noisy, tmp_path / "noisy", CPU)
    losses = [line["loss"] for line in records(tmp_path / "noisy", "train")]
    assert all(after <= before for before, after in pairwise(losses))


def test_stopped_and_resumed_is_equal_to_the_bit(image_folder, tmp_path, monkeypatch):
    settings = config(image_folder)
    train(settings, tmp_path / "whole", CPU)
    train_steps(settings, tmp_path / "parts", 3, monkeypatch)
    train(settings, tmp_path / "parts", CPU, resume=True)
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.parametrize("setting", [{"clip": 1.0}, {"weight_decay": 0.1}, {"phi_rate": 0.5}])
def test_what_it_cannot_do_is_refused(image_folder, setting):
    name = next(iter(setting))
    with pytest.raises(ConfigError, match=f"training.{name} is .*, but optimizer lbfgs"):
        config(image_folder, **setting)
