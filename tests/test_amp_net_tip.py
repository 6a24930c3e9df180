"""AMP-Net (TIP 2021) against its specification, its public code and the formula of a stage."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from lgmnet import complexity
from lgmnet.commands.import_weights_run import import_weights, likely_ratio
from lgmnet.config import load_config
from lgmnet.models import AMPNetTIP, SensingModel
from lgmnet.models.amp_net_tip import from_published
from lgmnet.operators import BlockSampling, matrices
from lgmnet.weights.saved import Weights
from tests.test_configs import FOLDER


def small(variant="bm", m=9, block_size=6, learned=True, **options):
    """A model with an orthonormal Φ, its start fitted."""
    operator = BlockSampling(matrices.orthonormal(m, block_size**2), block_size, learned)
    options = {"stages": 2, "channels": 4, **options}
    network = AMPNetTIP(m, block_size, variant, **options)
    network.start.fit(operator.matrix.detach())
    return SensingModel(operator, network)


@pytest.mark.parametrize(
    ("variant", "m", "learned", "parameters"),
    [
        ("m", 11, True, 195_903), ("m", 109, True, 409_347), ("m", 545, True, 1_358_955),
        ("k", 109, False, 290_637), ("k", 272, False, 468_144),
        ("b", 109, False, 581_283 - 109 * 1089),
        ("bm", 11, True, 367_839), ("bm", 109, True, 581_283), ("bm", 272, True, 936_297),
    ],
)  # fmt: skip
def test_parameter_counts_of_the_public_code(variant, m, learned, parameters):
    with torch.device("meta"):
        operator = BlockSampling(torch.zeros(m, 1089), 33, learned)
        model = SensingModel(operator, AMPNetTIP(m, 33, variant))
    assert complexity.parameters(model) == parameters


@pytest.mark.shared
def test_public_code_and_weights_give_the_same_image(reference):
    name = reference / "amp_net_tip" / "amp_net_tip_bm_m109_K2"
    state = torch.load(f"{name}.pkl", map_location="cpu", weights_only=True)
    with np.load(f"{name}_io.npz") as golden:
        x, x_hat = (torch.from_numpy(golden[key]).float() for key in ("x", "x_hat"))
    options, matrix, own = from_published(state)
    # The file is a BM that was never trained; with Φ at its orthonormal start it looks like a B.
    assert options == {"variant": "b", "stages": 2, "channels": 32}
    network = AMPNetTIP(len(matrix), 33, **options)
    network.load_state_dict(own)
    model = SensingModel(BlockSampling(matrix, 33), network).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x).image, x_hat, rtol=0, atol=1e-5)


def cnn(layers, image):
    """Convolutions with ReLU between, by scipy: (h, w) -> (h, w)."""
    maps = [image]
    for k in (0, 2, 4, 6):
        weight = layers[k].weight.detach().numpy()
        bias = np.zeros(len(weight)) if k == 6 else layers[k].bias.detach().numpy()
        maps = [
            sum(correlate2d(v, w, "same") for v, w in zip(maps, kernels, strict=True)) + b
            for kernels, b in zip(weight, bias, strict=True)
        ]
        maps = maps if k == 6 else [np.maximum(v, 0) for v in maps]
    return maps[0]


def test_a_stage_in_numpy():
    """Two blocks, float64: z = x + αΦᵀ(y − Φx), x⁺ = z − (αΦᵀΦ − I)n, then the deblocker."""
    model = small().double()
    stage = model.network.iterations[0]
    with torch.no_grad():
        stage.data_step.step.fill_(0.7)
    phi = model.operator.matrix.detach().numpy()
    rng = np.random.default_rng(0)
    blocks, y = rng.random((2, 36)), rng.random((2, 9))
    noise = np.stack([cnn(stage.denoiser, b.reshape(6, 6)).ravel() for b in blocks])
    z = blocks + 0.7 * (y - blocks @ phi.T) @ phi
    step = z - noise @ (0.7 * phi.T @ phi - np.eye(36))
    beside = np.concatenate(list(step.reshape(2, 6, 6)), axis=1)
    expected = beside - cnn(stage.deblocker, beside)
    image = np.concatenate(list(blocks.reshape(2, 6, 6)), axis=1)
    result = stage(
        torch.from_numpy(image)[None, None], torch.from_numpy(y.T)[None, :, None], model.operator
    )
    np.testing.assert_allclose(result.detach().numpy()[0, 0], expected, atol=1e-12)


@pytest.mark.parametrize(("variant", "spreads"), [("k", False), ("m", False), ("bm", True)])
def test_only_a_deblocker_sees_beyond_its_block(variant, spreads):
    model = small(variant)
    image = torch.rand(1, 1, 12, 18)
    changed = image.clone()
    changed[:, :, :6, :6] += 0.3
    different = (model(image).image - model(changed).image).abs() > 1e-7
    assert different[:, :, :6, :6].any()
    assert bool(different[:, :, 6:].any() or different[:, :, :, 6:].any()) == spreads


@pytest.mark.parametrize(("variant", "learned"), [("k", False), ("b", True), ("m", True)])
def test_the_steps_start_at_one_and_only_k_keeps_them(variant, learned):
    steps = [stage.data_step.step for stage in small(variant).network.stages()]
    assert [float(step.detach()) for step in steps] == [1.0, 1.0]
    assert all(step.requires_grad == learned for step in steps)


def test_the_start_is_a_trained_phi_transposed():
    model = small()
    y = torch.rand(1, 9, 2, 3)
    torch.testing.assert_close(model.network.start(y), model.operator.adjoint(y))
    assert model.network.start.matrix.requires_grad


def test_options_set_the_size():
    network = small(stages=3, channels=5).network
    assert len(list(network.stages())) == 3
    assert network.iterations[0].denoiser[0].out_channels == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "mb"}, "variant is 'mb', expected one of k, b, m, bm"),
        ({"stages": 0}, "stages is 0, expected at least 1"),
        ({"channels": 0}, "channels is 0, expected at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AMPNetTIP(9, 6, **options)


def published_state(model):
    """A state in the authors' layout, made from ours."""
    state = {"A": model.operator.matrix.detach(), "Q": model.network.start.matrix.detach()}
    for k, stage in enumerate(model.network.iterations, start=1):
        state[f"step_{k}"] = stage.data_step.step.detach()
        for name, layers in (("denoiser", stage.denoiser), ("deblock", stage.deblocker)):
            tensors = layers.state_dict() if layers is not None else {}
            state |= {f"{name}_{k}.D.{key}": tensor for key, tensor in tensors.items()}
    return state


@pytest.mark.parametrize("variant", ["k", "b", "m", "bm"])
def test_the_importer_finds_variant_and_size(variant):
    model = small(variant, stages=11)
    if "m" in variant:
        with torch.no_grad():
            model.operator.matrix.mul_(1.01)
    options, matrix, own = from_published(published_state(model))
    assert options == {"variant": variant, "stages": 11, "channels": 4}
    assert torch.equal(matrix, model.operator.matrix)
    ours = model.network.state_dict()
    assert own.keys() == ours.keys()
    assert all(torch.equal(own[key], ours[key]) for key in ours)


def test_an_imported_file_says_how_it_is_used(tmp_path):
    model = small("m", m=11, block_size=33)
    with torch.no_grad():
        model.operator.matrix.mul_(1.01)
    torch.save(published_state(model), tmp_path / "best_model.pkl")
    import_weights("amp_net_tip", tmp_path / "best_model.pkl", tmp_path / "w")
    weights = Weights(tmp_path / "w" / "model.safetensors")
    assert weights.config.model.options["variant"] == "m"
    assert weights.config.sampling.ratio == 0.01
    assert weights.config.evaluation.protocol == "amp21"


def test_the_importer_refuses_what_is_not_its_own():
    state = published_state(small())
    with pytest.raises(ValueError, match="not a weights file of AMP-Net.*no tensor A.*fcs"):
        from_published({"fcs.0.lambda_step": torch.zeros(1)})
    with pytest.raises(ValueError, match="not an AMP-Net file.*its tensor phi is unknown"):
        from_published({**state, "phi": torch.zeros(1)})
    with pytest.raises(ValueError, match="contain Φ and Q"):
        from_published(state, state["A"])


@pytest.mark.parametrize(
    ("ratio", "m"), [(0.01, 11), (0.04, 44), (0.1, 109), (0.25, 272), (0.3, 327), (0.4, 436),
                     (0.5, 545)],
)  # fmt: skip
def test_the_config_measures_what_the_published_matrices_measure(ratio, m):
    config = load_config(FOLDER / "amp_net_tip.yaml", [f"sampling.ratio={ratio}"])
    assert config.sampling.measurements() == m
    assert likely_ratio(m, 33)[0] == ratio
