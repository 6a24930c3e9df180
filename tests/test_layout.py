"""Convolutions get their features as they are fast, and the results are the same."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lgmnet.models import PRL, LGMNet, SensingModel
from lgmnet.operators import BlockSampling, matrices
from lgmnet.runtime import use_channels_last
from lgmnet.unfolding import layout

aten = torch.ops.aten
SIZES = {"D": 1, "dim": 2, "dimf": 3}
# Every data step, and AEGR with fewer inputs.
OPTIONS = [
    {"data_step": name} for name in ("aegr", "gd_feature", "gd_pixel", "prl_sigmoid", "gin", "hqs")
] + [
    {"aegr_inputs": ("x", "phity")},
    {"aegr_inputs": ("gram", "z")},
    {"variables": "single", "scales": 2},
]
NETWORKS = {str(options): lambda o=options: LGMNet(**SIZES, **o) for options in OPTIONS}
NETWORKS["prl"] = lambda: PRL(**SIZES)


class Convolutions(TorchDispatchMode):
    """Notes the channels that convolutions read, and their inputs in NCHW, also going back."""

    def __init__(self):
        super().__init__()
        self.channels, self.turned, self.turned_back, self.backward = [], [], [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is aten.convolution.default:
            self.channels.append(args[0].shape[1])
            self.turned += nchw(args[0])
        elif function is aten.convolution_backward.default:
            self.backward += 1
            self.turned_back += nchw(args[0], args[1])
        return function(*args, **(kwargs or {}))


def nchw(*tensors):
    return [tuple(t.shape) for t in tensors if t.shape[1] > 1 and t.stride(1) != 1]


def training_step(network, dtype=torch.float32):
    """One step's image and gradients, and the convolutions of it."""
    torch.manual_seed(0)
    operator = BlockSampling(matrices.orthonormal(20, 256), 16)
    model = SensingModel(operator, network).to(dtype)
    image = torch.rand(2, 1, 32, 48, dtype=dtype)
    with Convolutions() as found:
        result = model(image).image
        (result - image).square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) > 10
    return {"image": result.detach(), **gradients}, found


@pytest.mark.parametrize("name", NETWORKS)
def test_no_convolution_has_to_turn_its_features(name):
    network = NETWORKS[name]()
    use_channels_last(network)
    _, found = training_step(network)
    assert len(found.channels) == found.backward > 10
    assert not found.turned
    # Where X or Z is not read, PyTorch makes a gradient of zeros for it, in NCHW.
    assert not found.turned_back or any(part in name for part in ("sigmoid", "hqs", "inputs"))


def test_nchw_features_are_noticed():
    _, found = training_step(NETWORKS["prl"]())
    assert len(found.turned) > 10


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_zero_channels_change_nothing(name, channels_last, monkeypatch):
    results, channels = [], []
    for padded in (False, True):
        torch.manual_seed(1)
        network = NETWORKS[name]()
        if channels_last:
            use_channels_last(network)
        monkeypatch.setattr(layout, "on_tensor_cores", lambda features, yes=padded: yes)
        result, found = training_step(network, torch.float64)
        results.append(result)
        assert not (channels_last and found.turned)
        channels.append(found.channels)
    plain, same = results
    padded = [b for a, b in zip(*channels, strict=True) if a != b]
    assert padded
    assert not any(number % 8 for number in padded)
    assert plain.keys() == same.keys()
    for key in plain:
        torch.testing.assert_close(same[key], plain[key], rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize(
    ("device", "dtype", "autocast", "expected"),
    [
        ("cuda", torch.bfloat16, False, True),
        ("cuda", torch.float32, True, True),
        ("cuda", torch.float32, False, False),
        ("cpu", torch.bfloat16, True, False),
    ],
)
def test_tensor_cores_are_those_of_a_gpu_in_bf16(device, dtype, autocast, expected, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: autocast and kind == device)
    features = SimpleNamespace(device=torch.device(device), dtype=dtype)  # there is no GPU here
    assert layout.on_tensor_cores(features) == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_the_format_of_the_features_is_taken(channels):
    tensor = torch.rand(2, channels, 4, 6)
    features = torch.rand(2, 8, 4, 6, dtype=torch.float64)
    for given in (features, features.to(memory_format=torch.channels_last)):
        taken = layout.in_format_of(given, tensor)
        assert taken.dtype == torch.float64
        torch.testing.assert_close(taken.float(), tensor)
        assert (taken.stride(1) == 1) == (given.stride(1) == 1)
