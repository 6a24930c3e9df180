import functools
import itertools

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lgmnet import runtime
from lgmnet.build import build_model
from lgmnet.runtime import Runtime
from lgmnet.training.ema import WeightAverage
from lgmnet.training.loop import train
from tests.conftest import tiny_config
from tests.test_training import train_steps

CPU = Runtime(torch.device("cpu"))
IMAGE = torch.rand(1, 1, 32, 32)


def test_the_average_is_exponential_with_a_short_memory_at_the_start():
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, 0.5)
    with torch.no_grad():
        module.weight.fill_(1.0)
        average.update(module, 1)
        assert torch.equal(average.model.weight, module.weight)
        module.weight.fill_(3.0)
        average.update(module, 2)  # decay min(0.5, 3/12) = 0.25
        module.weight.fill_(4.0)
        average.update(module, 100)  # decay 0.5
    assert float(average.model.weight) == pytest.approx((0.25 * 1.0 + 0.75 * 3.0 + 4.0) / 2)


def changed(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_the_copy_of_a_prepared_model_is_whole_and_not_compiled():
    """Recomputed stages hold bound methods; those of the copy must be its own."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    model = build_model(tiny_config()).eval()
    runtime.use_channels_last(model.network)
    runtime.recompute_stages(model.network)
    model.network.compile(backend=backend)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        expected = average.model(IMAGE).image
        assert not compiled
        torch.testing.assert_close(model(IMAGE).image, expected)
        assert compiled
        changed(model)
        assert torch.equal(average.model(IMAGE).image, expected)
    assert set(model.modules()).isdisjoint(average.model.modules())
    forwards = [(m, m.forward) for m in average.model.modules()]
    partials = [(m, f) for m, f in forwards if isinstance(f, functools.partial)]
    assert partials
    assert all(forward.args[0].__self__ is module for module, forward in partials)
    pairs = zip(model.parameters(), average.model.parameters(), strict=True)
    assert all(theirs.stride() == ours.stride() for theirs, ours in pairs)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_the_statistics_of_a_batch_normalisation_are_those_of_the_model():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    average = WeightAverage(model, 0.9)
    for step in (1, 2):
        changed(model)
        model(IMAGE)
        average.update(model, step)
    ours, theirs = dict(average.model.named_buffers()), dict(model.named_buffers())
    assert theirs["1.num_batches_tracked"] == 2
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not torch.equal(average.model[0].weight, model[0].weight)


def in_the_old_format(state):
    """As `AveragedModel` wrote it."""
    return {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in state.items()}}


def test_states_are_plain_and_those_of_averaged_model_are_read():
    module = nn.Linear(3, 2)
    old = AveragedModel(nn.Linear(3, 2))
    assert old.state_dict().keys() == in_the_old_format(module.state_dict()).keys()
    average = WeightAverage(module, 0.9)
    average.load_state_dict(old.state_dict())
    state = average.state_dict()
    assert state.keys() == module.state_dict().keys()
    for key, value in old.module.state_dict().items():
        assert torch.equal(state[key], value)
    again = WeightAverage(module, 0.9)
    again.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    # The update goes on from what was loaded.
    average.update(module, 100)
    expected = old.module.weight.lerp(module.weight, 0.1)
    torch.testing.assert_close(average.model.weight, expected.detach())


def test_a_run_with_an_average_in_the_old_format_goes_on_to_the_bit(
    image_folder, tmp_path, monkeypatch
):
    config = tiny_config(image_folder, training={"ema": 0.9})
    train(config, tmp_path / "whole", CPU)
    train_steps(config, tmp_path / "parts", 3, monkeypatch)
    state = torch.load(tmp_path / "parts" / "last.pt", weights_only=True)
    state["average"] = in_the_old_format(state["average"])
    torch.save(state, tmp_path / "parts" / "last.pt")
    train(config, tmp_path / "parts", CPU, resume=True)
    whole, parts = (
        torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "parts")
    )
    for kind, key in itertools.product(("model", "average"), whole["model"]):
        assert torch.equal(whole[kind][key], parts[kind][key])
