"""Weights cast to bf16 all at once: the steps of autocast, to the bit."""

import pytest
import torch

from lgmnet.config import TrainingConfig
from lgmnet.models import MODELS
from lgmnet.runtime import Runtime
from lgmnet.training import gradients, learner
from lgmnet.training.loop import train
from lgmnet.training.reduced import ReducedWeights
from tests.conftest import tiny_config
from tests.test_models import small_model

CPU = Runtime(torch.device("cpu"))
TRAINED = [name for name in MODELS.names() if any(True for _ in small_model(name).parameters())]


def found(model, reduced, batch, parts):
    """The loss and the gradients of a batch in parts."""
    settings = TrainingConfig(precision="bf16", batch_size=4, accumulate=parts)
    torch.manual_seed(0)  # as every training step does
    terms = gradients.backward(model, model, batch, model.operator, settings, CPU, reduced)
    values = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    copies = {name: value.clone() for name, value in values.items()}
    model.zero_grad(set_to_none=True)
    return {"loss": terms["loss"], **copies}


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_are_those_of_autocast_to_the_bit(name):
    model = small_model(name, size=(66, 66)).train()
    side = model.multiple * max(1, 66 // model.multiple)
    batch = torch.randint(0, 256, (4, 1, side, side), dtype=torch.uint8)
    reduced = ReducedWeights(model)
    for parts in (1, 2):
        expected, values = (found(model, each, batch, parts) for each in (None, reduced))
        assert expected.keys() == values.keys()
        for key, value in values.items():
            assert value.dtype == torch.float32
            assert torch.equal(value, expected[key]), key


def test_only_layers_have_weights_of_their_own():
    model = small_model("lgm_net")
    own = dict(ReducedWeights(model).model.named_parameters())
    for name, parameter in model.named_parameters():
        assert (own[name] is parameter) == name.startswith("operator.")
        assert torch.equal(own[name], parameter.to(own[name].dtype))


def test_a_run_is_that_of_autocast_to_the_bit(image_folder, tmp_path, monkeypatch):
    changes = {"precision": "bf16", "recompute": True, "channels_last": True, "optimizer": "muon"}
    config = tiny_config(image_folder, training=changes)
    train(config, tmp_path / "reduced", CPU)
    made = []
    monkeypatch.setattr(learner, "ReducedWeights", made.append)
    train(config, tmp_path / "autocast", CPU)
    assert len(made) == 1
    one, two = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["model"]
        for name in ("reduced", "autocast")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("changes", [{"precision": "fp32"}, {"precision": "bf16", "compile": True}])
def test_nothing_is_cast_where_autocast_is_not_used_or_a_compiler_does_it(changes, monkeypatch):
    made = []
    monkeypatch.setattr(learner, "ReducedWeights", made.append)
    learner.Learner(small_model("lgm_net"), tiny_config(training=changes), CPU)
    assert not made
