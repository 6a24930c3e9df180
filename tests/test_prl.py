"""PRL-PGD against its specification, its public code and the formula of a stage."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from lgmnet import complexity
from lgmnet.models import PRL, SensingModel
from lgmnet.models.prl import Stage, from_published
from lgmnet.operators import BlockSampling, matrices


@pytest.mark.parametrize(("D", "parameters"), [(3, 6_030_753), (5, 10_027_809), (7, 14_024_865)])
def test_parameter_counts_of_the_public_code(D, parameters):
    with torch.device("meta"):
        assert complexity.parameters(PRL(D)) == parameters


def test_flops_of_the_public_code():
    """Two per multiply-accumulate, one 256 x 256 image at 10 %."""
    with torch.device("meta"):
        model = SensingModel(BlockSampling(torch.zeros(103, 1024)), PRL())
    assert complexity.cost(model, 256, 256).flops / 1e9 == pytest.approx(107.5, abs=0.05)


@pytest.mark.shared
def test_public_code_and_weights_give_the_same_image(reference):
    name = reference / "prl" / "prl_r010_N1_f4"
    state = torch.load(f"{name}.pkl", map_location="cpu", weights_only=True)
    with np.load(f"{name}_io.npz") as golden:
        x, x_hat = (torch.from_numpy(golden[key]).float() for key in ("x", "x_hat"))
    options, matrix, own = from_published(state)
    assert options == {"D": 1, "dim": 4, "dimf": 4}
    network = PRL(**options)
    network.load_state_dict(own)
    model = SensingModel(BlockSampling(matrix), network).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x).image, x_hat, rtol=0, atol=1e-5)


def conv(layer, maps):
    """A convolution by scipy, (c, h, w) -> (o, h, w)."""
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    return np.stack([
        sum(correlate2d(v, w, "same") for v, w in zip(maps, kernels, strict=True)) + b
        for kernels, b in zip(weight, bias, strict=True)
    ])  # fmt: skip


def test_a_stage_in_numpy():
    """Scale 2, one block of 4 x 4 pixels: four channels are one image, interleaved."""
    operator = BlockSampling(matrices.gaussian(5, 16), 4).double()
    stage = Stage(4, 3, scale=2).double()
    rng = np.random.default_rng(0)
    x, back_projection = rng.random((4, 2, 2)), rng.random((4, 2, 2))
    phi = operator.matrix.detach().numpy()
    image = np.zeros((4, 4))
    for k in range(4):
        image[k // 2 :: 2, k % 2 :: 2] = x[k]
    gram = (phi.T @ phi @ image.ravel()).reshape(4, 4)
    gram = np.stack([gram[k // 2 :: 2, k % 2 :: 2] for k in range(4)])
    fused = conv(stage.data_step.fuse, np.concatenate([x, gram, back_projection]))
    v = x - 1 / (1 + np.exp(-fused))
    enter, first, second, leave = stage.prior
    features = conv(enter, v)
    for block in (first, second):
        features = features + conv(block.body[2], np.maximum(conv(block.body[0], features), 0))
    expected = v + conv(leave, features)
    result = stage(torch.from_numpy(x)[None], operator, torch.from_numpy(back_projection)[None])
    np.testing.assert_allclose(result.detach().numpy()[0], expected, atol=1e-12)


def test_options_set_the_size():
    network = PRL(D=2, dim=3, dimf=5)
    assert [len(c.iterations) for c in (*network.down, network.mid, *network.up)] == [2, 2, 4, 2, 2]
    assert len(list(network.stages())) == 12
    widest = network.mid.iterations[0]
    assert widest.data_step.fuse.out_channels == 80
    assert widest.prior[0].out_channels == 48


def test_blocks_of_33_pixels_where_the_image_divides_by_4():
    operator = BlockSampling(matrices.orthonormal(20, 1089), 33, learned=False)
    image = torch.rand(1, 1, 132, 264)
    assert PRL(1, 2, 2)(operator(image), operator).image.shape == image.shape


@pytest.mark.parametrize("name", ["D", "dim", "dimf"])
def test_bad_options_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
        PRL(**{name: 0})


def published_state(network, D):
    """A state in the authors' layout, made from ours."""
    state = {"Phi_weight": torch.randn(41, 1, 32, 32)}
    parts = {"conv_first": network.lift, "conv_last": network.project}
    parts |= {f"mid.body.{k}": i for k, i in enumerate(network.mid.iterations)}
    for level in (0, 1):
        down, up = (f"{side}{level + 1}.body" for side in ("down", "up"))
        parts |= {f"{down}.{k}": i for k, i in enumerate(network.down[level].iterations)}
        parts |= {f"{down}.{D}": network.shrink[level], f"{up}.0": network.grow[1 - level]}
        parts |= {f"{up}.{k + 1}": i for k, i in enumerate(network.up[1 - level].iterations)}
    for name, part in parts.items():
        for key, tensor in part.state_dict().items():
            key = key.replace("prior.", "body.", 1).replace("data_step.fuse.", "G.0.")
            state[f"body.{name}.{key}"] = tensor
    return {f"module.{key}": tensor for key, tensor in state.items()}


@pytest.mark.parametrize(("D", "dim", "dimf"), [(2, 1, 3), (11, 2, 1)])
def test_the_importer_finds_every_size(D, dim, dimf):
    network = PRL(D, dim, dimf)
    options, matrix, own = from_published(published_state(network, D))
    assert options == {"D": D, "dim": dim, "dimf": dimf}
    assert matrix.shape == (41, 1024)
    ours = network.state_dict()
    assert own.keys() == ours.keys()
    assert all(torch.equal(own[key], ours[key]) for key in ours)


def test_the_importer_refuses_what_is_not_its_own():
    state = published_state(PRL(1, 1, 1), 1)
    with pytest.raises(ValueError, match="a weights file of PRL-PGD.*no tensor Phi_weight.*fcs"):
        from_published({"fcs.0.lambda_step": torch.zeros(1)})
    lgm_net = {"Phi_weight": torch.zeros(1), "body.mid.hqsM.0.body.0.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"a weights file of PRL-PGD.*no tensor body\.mid\.body"):
        from_published(lgm_net)
    with pytest.raises(ValueError, match="files contain Φ"):
        from_published(state, torch.zeros(41, 1024))
