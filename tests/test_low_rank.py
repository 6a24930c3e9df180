"""Adapters on any module: their rank, their product, merging, freezing."""

import numpy as np
import pytest
import torch
from torch import nn

from lgmnet.unfolding.low_rank import (
    Adapters,
    LowRankUpdate,
    module_fingerprint,
    rank,
    unmerge,
)

LAYERS = {
    "linear": (nn.Linear(20, 30), (5, 20)),
    "conv": (nn.Conv2d(20, 30, 3, padding=1), (2, 20, 8, 6)),
    "transposed": (nn.ConvTranspose2d(20, 30, 2, stride=2), (2, 20, 8, 6)),
    "grouped": (nn.Conv2d(20, 30, 3, groups=5), (2, 20, 8, 6)),
    "depthwise": (nn.Conv2d(20, 20, 3, groups=20, padding=1), (2, 20, 8, 6)),
    "strip": (nn.Conv2d(20, 30, (1, 5), padding=(0, 2)), (2, 20, 8, 6)),
}


class Small(nn.Module):
    """One layer of every kind."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.GroupNorm(2, 12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.upsample = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.last = nn.Linear(6, 4)

    def forward(self, image):
        features = self.upsample(self.depthwise(self.norm(self.first(image))).relu())
        return self.last(features.mean((2, 3)))


@pytest.fixture
def module():
    return Small().requires_grad_(False)


def moved(adapters, std=0.1):
    """As training leaves them: nothing is at its start."""
    for parameter in adapters.parameters():
        nn.init.normal_(parameter, std=std)
    return adapters


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((32, 1, 3, 3), 1), ((64, 32, 3, 3), 4), ((64, 64, 3, 3), 7), ((64, 128, 3, 3), 7),
        ((128, 128, 3, 3), 13), ((28, 28), 3), ((48, 1, 3, 3), 1),
    ],
)  # fmt: skip
def test_ranks_of_the_specification(shape, expected):
    assert rank(shape, 10) == expected


@pytest.mark.parametrize("gamma", [0, -5, 100.1])
def test_a_rank_of_zero_or_beyond_the_full_one_is_refused(gamma, module):
    with pytest.raises(ValueError, match=rf"gamma is {gamma:g}, which gives .*0 < gamma <= 100"):
        Adapters(module, gamma)


def test_the_full_rank_is_possible():
    assert rank((20, 30), 100) == 20
    assert rank((20, 30, 3, 3), 0.001) == 1


@pytest.mark.parametrize("name", LAYERS)
def test_attaching_changes_nothing(name):
    layer, shape = LAYERS[name]
    inputs = torch.randn(shape)
    assert torch.equal(Adapters(layer)(layer, inputs), layer(inputs))


@pytest.mark.parametrize("name", LAYERS)
def test_merged_equals_unmerged(name):
    layer, shape = LAYERS[name]
    adapters, inputs = moved(Adapters(layer)), torch.randn(shape)
    before, expected = layer(inputs), adapters(layer, inputs)
    adapters.merge(layer)
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-6, atol=1e-6)
    unmerge(layer)
    assert torch.equal(layer(inputs), before)
    assert float((expected - before).abs().max().detach()) > 0.01


@pytest.mark.parametrize(("outputs", "inputs", "k"), [(30, 20, 3), (20, 1, 3), (32, 64, 2)])
def test_values_per_kernel_and_the_product_as_memory_shows_it(outputs, inputs, k):
    update = moved(LowRankUpdate((outputs, inputs, k, k), 10)).double()
    r = rank((outputs, inputs), 10)
    assert sum(p.numel() for p in update.parameters()) == r * k * k * (outputs + inputs)
    a, b = (p.detach().numpy() for p in (update.left, update.right))
    assert a.shape == (outputs * k, r * k)
    expected = (a @ b).ravel()
    np.testing.assert_allclose(update().detach().numpy().ravel(), expected, rtol=1e-12)


def test_the_random_factor_has_the_spread_of_the_inverse_rank():
    update = LowRankUpdate((64, 128, 3, 3), 10)  # rank 7
    assert not update.left.any()
    assert float(update.right.detach().std()) == pytest.approx(1 / 7, rel=0.05)


def test_the_product_has_the_rank_that_was_asked_for():
    update = moved(LowRankUpdate((40, 50), 10))
    assert torch.linalg.matrix_rank(update()) == 4


def test_training_leaves_the_backbone_to_the_bit(module):
    """With weight decay, which would move everything that the optimizer may move."""
    adapters = Adapters(module, train_bias=True, train_norm=True)
    owner = nn.ModuleList([module, adapters])
    before = {k: v.clone() for k, v in module.state_dict().items()}
    start = {k: v.clone() for k, v in adapters.state_dict().items()}
    optimizer = torch.optim.AdamW(owner.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        adapters(module, torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not any(torch.equal(v, start[k]) for k, v in adapters.state_dict().items())


def test_unmerging_restores_every_bit(module):
    before = {k: v.clone() for k, v in module.state_dict().items()}
    adapters = moved(Adapters(module, exclude=["upsample"], train_norm=True), std=1e-3)
    adapters.merge(module)
    changed = [k for k, v in module.state_dict().items() if not torch.equal(v, before[k])]
    assert set(changed) == set(adapters.weights(Small()))
    unmerge(module)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_merging_twice_is_refused(module):
    first, second = moved(Adapters(module)), moved(Adapters(module))
    first.merge(module)
    for adapters in (first, second):
        with pytest.raises(ValueError, match="merged with adapters; unmerge it first"):
            adapters.merge(module)
    with pytest.raises(ValueError, match="merged with adapters"):
        first(module, torch.randn(1, 3, 8, 8))
    unmerge(module)
    with pytest.raises(ValueError, match="not merged"):
        unmerge(module)
    second.merge(module)


def test_an_excluded_layer_is_full_or_frozen(module):
    full = Adapters(module, exclude=["upsample"])
    assert set(full.full) == {"upsample/weight", "upsample/bias"}
    assert not any("upsample" in key for key in full.updates)
    assert torch.equal(full.full["upsample/weight"], module.upsample.weight)
    frozen = Adapters(module, exclude=["upsample"], excluded_mode="frozen")
    assert not frozen.full
    assert set(frozen.weights(module)) == {"first.weight", "depthwise.weight", "last.weight"}


def test_biases_and_norms_are_shared_unless_asked_for(module):
    assert not Adapters(module).full
    assert set(Adapters(module, train_bias=True).full) == {
        "first/bias", "upsample/bias", "last/bias",
    }  # fmt: skip
    assert set(Adapters(module, train_norm=True).full) == {"norm/weight", "norm/bias"}


def test_full_values_follow_a_backbone_that_is_loaded_later(module):
    adapters = Adapters(module, exclude=["upsample"])
    other = Small()
    adapters.refresh(other)
    assert torch.equal(adapters.full["upsample/weight"], other.upsample.weight)


def test_mistakes_are_named(module):
    with pytest.raises(ValueError, match="exclude names 'upsampler'.*the layers are first, "):
        Adapters(module, exclude=["upsampler"])
    with pytest.raises(ValueError, match="excluded_mode is 'none', expected one of per_stage_full"):
        Adapters(module, exclude=["upsample"], excluded_mode="none")


def test_the_fingerprint_belongs_to_names_and_values(module):
    first = module_fingerprint(module)
    assert first == module_fingerprint(module.double())
    module.first.bias[0] += 1e-3
    assert module_fingerprint(module) != first
