"""The rewritten networks against the plain ones."""

import copy
import pickle

import pytest
import torch
from torch import nn

import lgmnet
from lgmnet.models import MODELS, LGMNet, SensingModel
from lgmnet.operators import BlockSampling, matrices
from lgmnet.speed import inference
from lgmnet.speed.inference import PackedConv2d, merge_linear_pairs, optimize_for_inference
from lgmnet.speed.precision import has_bf16_arithmetic
from lgmnet.unfolding import layout
from lgmnet.unfolding.blocks import conv1x1, conv3x3
from tests.conftest import assert_same_image, without_bf16
from tests.test_models import small_model

# Of images in [0, 1]; the inputs are noise, which no network rebuilds well.
BF16_TOLERANCE = 0.03


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
def test_the_fast_network_gives_the_same_image(name, size):
    model = small_model(name, size=size).eval()
    model.operator.gathers = False  # as published
    before = copy.deepcopy(model.state_dict())
    image = torch.rand(2, 1, *size)
    expected = model(image).image.detach()
    result = optimize_for_inference(model)(image).image
    assert_same_image(result, expected)
    # The original is as it was.
    assert not model.operator.gathers
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(model(image).image, expected)


@pytest.mark.parametrize("name", ["lgm_net", "prl", "ista_net_plus"])
def test_blocks_that_scales_do_not_divide(name):
    model = small_model(name, block_size=33).eval()
    image = torch.rand(1, 1, model.multiple, 2 * model.multiple)
    result = optimize_for_inference(model)(image).image
    assert_same_image(result, model(image).image.detach())


@pytest.mark.parametrize("m", [11, 41, 256, 512])
def test_every_ratio(m):
    model = SensingModel(BlockSampling(matrices.orthonormal(m, 1024)), LGMNet(D=1, dim=4, dimf=4))
    image = torch.rand(1, 1, 64, 96)
    result = optimize_for_inference(model)(image).image
    assert_same_image(result, model(image).image.detach())


@pytest.mark.parametrize("name", MODELS.names())
def test_bf16_stays_close_and_images_stay_in_float32(name):
    model = small_model(name, size=(64, 96)).eval()
    image = torch.rand(1, 1, 64, 96)
    result = optimize_for_inference(model, "bf16")(image).image
    assert result.dtype == torch.float32
    expected = model(image).image.detach()
    scale = float(expected.abs().max().clamp_min(1))
    assert float((result - expected).abs().max()) < BF16_TOLERANCE * scale


@pytest.mark.parametrize(
    "options",
    [{"data_step": "gd_feature"}, {"data_step": "gin"}, {"data_step": "hqs"}, {"scales": 1},
     {"z_refine": "plain"}, {"avf_down": "unshuffle"}, {"avf_up": "bilinear"},
     {"variables": "single"}, {"share_iterations": "levels"}],
)  # fmt: skip
def test_ablations(options):
    network = LGMNet(**{"D": 1, "dim": 2, "dimf": 4, **options})
    model = SensingModel(BlockSampling(matrices.orthonormal(20, 1024)), network).eval()
    image = torch.rand(1, 1, 64, 32)
    result = optimize_for_inference(model)(image).image
    assert_same_image(result, model(image).image.detach())


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
def test_a_merged_pair_is_the_same_map_at_the_border_too(biases):
    pair = nn.Sequential(
        nn.Conv2d(5, 4, 3, padding=1, bias=biases[0]), nn.Conv2d(4, 3, 1, bias=biases[1])
    ).double()
    merged = copy.deepcopy(pair)
    merge_linear_pairs(merged)
    assert len(merged) == 1
    features = torch.randn(1, 5, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(merged(features), pair(features), rtol=1e-12, atol=1e-12)


def test_pairs_that_would_cost_more_or_are_not_linear_stay():
    for layers in (
        [conv3x3(4, 2), conv1x1(2, 64)],
        [conv3x3(4, 4), nn.ReLU(), conv1x1(4, 4)],
        [conv3x3(4, 4), conv3x3(4, 4)],
    ):
        network = nn.Sequential(*layers)
        merge_linear_pairs(network)
        assert len(network) == len(layers)


def test_lgm_net_is_rewritten_where_it_counts():
    model = optimize_for_inference(small_model("lgm_net"), "bf16")
    assert model.operator.reduced_gram
    stage = next(iter(model.network.stages()))
    assert len(stage.data_step.fuse) == 1
    assert stage.data_step.fuse[0].weight.dtype == torch.bfloat16
    assert model.network.project.weight.dtype == model.operator.matrix.dtype == torch.float32


@pytest.mark.parametrize("name", ["lgm_net", "prl"])
def test_channels_are_completed_in_the_fast_network_too(name, monkeypatch):
    """As on a GPU: no oneDNN, and bf16 weights that zero channels complete at the call."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="no oneDNN"):
        model = optimize_for_inference(small_model(name).eval(), "bf16")
    image = torch.rand(1, 1, 64, 64)
    asked = []
    expected = model(image).image
    monkeypatch.setattr(layout, "on_tensor_cores", lambda features: not asked.append(features))
    result = model(image).image
    assert len(asked) > 3
    assert {features.dtype for features in asked} >= {torch.bfloat16}
    assert float((result - expected).abs().max()) < BF16_TOLERANCE * float(expected.abs().max())


def test_fast_models_can_be_copied_and_pickled():
    model = optimize_for_inference(small_model("lgm_net"))
    image = torch.rand(1, 1, 64, 64)
    expected = model(image).image
    torch.testing.assert_close(copy.deepcopy(model)(image).image, expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(image).image, expected)


def test_without_onednn_convolutions_stay_and_it_is_said(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = small_model("prl").eval()
    with pytest.warns(UserWarning, match="no oneDNN"):
        result = optimize_for_inference(model)
    assert not any(isinstance(module, PackedConv2d) for module in result.modules())
    image = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(result(image).image, model(image).image.detach())


@pytest.mark.parametrize("name", MODELS.names())
def test_bf16_on_a_cpu_without_bf16_arithmetic_warns_and_works(name, monkeypatch):
    """As on a CPU without AVX-512: oneDNN refuses bf16, and PyTorch's own kernels compute it."""
    without_bf16(monkeypatch)
    model = small_model(name, size=(64, 96)).eval()
    image = torch.rand(1, 1, 64, 96)
    with pytest.warns(UserWarning, match="slower than fp32"):
        reduced = optimize_for_inference(model, "bf16")
    with torch.backends.mkldnn.flags(enabled=False):
        result = reduced(image).image
    expected = model(image).image.detach()
    scale = float(expected.abs().max().clamp_min(1))
    assert float((result - expected).abs().max()) < BF16_TOLERANCE * scale


@pytest.mark.parametrize(
    ("known", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_the_capability_is_asked_of_pytorch(known, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert has_bf16_arithmetic(torch.device("cpu")) == expected


def test_older_pytorch_is_asked_otherwise(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert has_bf16_arithmetic(torch.device("cpu"))
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not has_bf16_arithmetic(torch.device("cpu"))


def test_a_compiler_that_fails_is_left_out_with_one_warning(monkeypatch):
    def broken(function):
        def compiled(*arguments):
            raise RuntimeError("no compiler\nmany lines")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    model = small_model("ista_net_plus").eval()
    image = torch.rand(1, 1, 32, 32)
    compiled = optimize_for_inference(model, compile=True)
    with pytest.warns(UserWarning, match=r"going on without it \(no compiler\)"):
        result = compiled(image).image
    assert_same_image(result, model(image).image.detach())


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'fp16', expected one of fp32, tf32, bf16"):
        lgmnet.optimize_for_inference(small_model("prl"), "fp16")
    with pytest.raises(ValueError, match="needs --fast"):
        inference.prepare(small_model("prl"), False, "bf16", None)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS.names())
def test_fast_on_the_gpu(name):
    model = small_model(name, size=(64, 96)).eval().cuda()
    image = torch.rand(1, 1, 64, 96).cuda()
    result = optimize_for_inference(model)(image).image
    torch.testing.assert_close(result, model(image).image.detach(), rtol=1e-3, atol=1e-4)


def test_a_gradient_through_the_fast_network_is_refused():
    """oneDNN's convolutions have no derivative here; PyTorch would only warn."""
    model = small_model("ista_net_plus").eval()
    fast = optimize_for_inference(model)
    if not any(isinstance(module, PackedConv2d) for module in fast.modules()):
        pytest.skip("no oneDNN here")
    y = model.measure(torch.rand(1, 1, 32, 32)).detach().requires_grad_()
    with pytest.raises(ValueError, match="has no gradient; use the original network"):
        fast.network(y, fast.operator)
    assert_same_image(fast.reconstruct(y), model.reconstruct(y))
