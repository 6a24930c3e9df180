"""One network for a range of ratios: which rows of Φ are drawn, shared, trained and scored."""

import json

import cv2
import numpy as np
import pytest
import torch

import lgmnet
from lgmnet import runtime
from lgmnet.build import Source, at_condition, build_model
from lgmnet.config import ConfigError, config_from_dict, load_config
from lgmnet.data.crops import generator, sample_blocks
from lgmnet.operators import matrices
from lgmnet.operators.ratios import ratio_label
from lgmnet.runtime import Runtime
from lgmnet.training import gradients, loop
from lgmnet.training.checks import check_run
from lgmnet.training.gradients import measured_share
from lgmnet.training.images import open_data
from lgmnet.training.learner import OPERATOR_STREAM
from lgmnet.weights.saved import save_weights
from tests.conftest import PROJECT, smooth_image, tiny_config
from tests.test_operators import span
from tests.test_scripts import run_main
from tests.test_training import final, records, train_steps

CPU = Runtime(torch.device("cpu"))
RANGE = {"ratio": [0.01, 0.5], "phi_init": "orthonormal"}


def sampled(sampling):
    return sampling.make(Source())


@pytest.fixture
def config():
    return tiny_config(sampling=RANGE)


@pytest.fixture
def model(config):
    return build_model(config).eval()


def test_the_first_rows_are_the_operator_of_a_lower_ratio(config, model):
    image = torch.rand(2, 1, 32, 64)
    low = at_condition(model, config.sampling, "r0.10")
    assert low.operator.measurements == 103
    assert torch.equal(low.operator.matrix, model.operator.matrix[:103])
    torch.testing.assert_close(low.measure(image), model.measure(image)[:, :103])
    assert torch.equal(low(image).image, model(image, model.operator.first(103)).image)
    assert at_condition(model, config.sampling, None).operator.measurements == 512


@pytest.mark.parametrize("phi", ["learned", "fixed"])
def test_a_network_at_one_ratio_can_be_optimized(phi):
    config = tiny_config(sampling=RANGE | {"phi": phi})
    model = at_condition(build_model(config).eval(), config.sampling, "r0.10")
    image = torch.rand(1, 1, 64, 64)
    fast = lgmnet.optimize_for_inference(model)
    torch.testing.assert_close(fast(image).image, model(image).image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_reach_the_rows_that_were_used_and_no_other(config, recompute):
    model = build_model(config)
    if recompute:
        runtime.recompute_stages(model.network)
    model(torch.rand(1, 1, 32, 32), model.operator.first(20)).image.square().mean().backward()
    gradient = model.operator.matrix.grad
    assert gradient[:20].any(dim=1).all()
    assert not gradient[20:].any()


def test_draws_cover_the_range_evenly_in_the_logarithm(config):
    operator = sampled(config.sampling)

    def draw(seed, step):
        drawn = config.sampling.draw(operator, generator(seed, step, OPERATOR_STREAM))
        return drawn.measurements

    drawn = [draw(3, step) for step in range(4000)]
    assert (min(drawn), max(drawn)) == (11, 512)
    middle = (11 * 512) ** 0.5
    assert np.mean([rows < middle for rows in drawn]) == pytest.approx(0.5, abs=0.03)
    assert drawn[:50] == [draw(3, step) for step in range(50)]
    assert drawn[:50] != [draw(4, step) for step in range(50)]
    single = tiny_config().sampling
    whole = sampled(single)
    assert single.draw(whole, generator(3, 0, OPERATOR_STREAM)) is whole


@pytest.mark.parametrize("ratio", [0.005, 0.6, 0, -1, float("nan")])
def test_a_ratio_outside_the_range_says_the_range(config, model, ratio):
    with pytest.raises(ConfigError, match=r", but this network was made for 0.01 to"):
        at_condition(model, config.sampling, ratio_label(ratio))


def test_a_network_of_one_ratio_serves_no_other():
    sampling = tiny_config().sampling
    assert sampling.measurements(0.1) == 103
    with pytest.raises(ConfigError, match=r"0\.25, but .* made for 0\.1;"):
        sampling.measurements(0.25)


@pytest.mark.parametrize("name", ["ista_net", "fista_net", "amp_net", "amp_net_tip"])
def test_a_network_with_a_linear_start_cannot_serve_a_range(name):
    config = config_from_dict({"model": {"name": name}, "sampling": RANGE})
    with pytest.raises(ConfigError, match=f"{name} begins with a linear map .*lgm_net or prl"):
        build_model(config)


def test_a_graph_for_every_number_of_measurements_is_refused():
    for settings in ({"compile": True}, {"compile": True, "cuda_graphs": True}):
        config = tiny_config(sampling=RANGE, training=settings)
        with pytest.raises(ConfigError, match="set training.compile=false"):
            check_run(config, Runtime(torch.device("cuda")))


def test_stopped_and_resumed_draws_the_same_ratios(image_folder, tmp_path, monkeypatch):
    config = tiny_config(image_folder, sampling=RANGE, training={"ema": 0.9})
    loop.train(config, tmp_path / "whole", CPU)
    train_steps(config, tmp_path / "parts", 3, monkeypatch)
    loop.train(config, tmp_path / "parts", CPU, resume=True)
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_validation_is_the_mean_over_the_published_ratios(image_folder, tmp_path):
    held = tmp_path / "held.txt"
    held.write_text("image0.png\n")
    start = {"model": {"phity_skip": True}, "training": {"rate": 1e-9}}
    config = tiny_config(image_folder, sampling=RANGE, data={"validation": str(held)}, **start)
    assert len(open_data(config).train.names) == 5
    loop.train(config, tmp_path / "run", CPU)
    line = records(tmp_path / "run", "validation")[0]
    each = [line[f"psnr_{label}"] for label in ("r0.01", "r0.04", "r0.10", "r0.25", "r0.50")]
    assert line["psnr"] == pytest.approx(np.mean(each))
    assert each[0] < each[-1] - 1


def test_the_measurement_term_uses_the_rows_of_the_step(config):
    """An error that the measured rows do not see costs nothing."""
    model = build_model(config)
    model.network.forward = lambda measurement, operator: lgmnet.models.Reconstruction(
        target + model.operator.adjoint(unseen)
    )
    batch = torch.full((1, 1, 32, 32), 100, dtype=torch.uint8)
    target = batch.float() / 255
    unseen = torch.zeros(1, 512, 1, 1)
    unseen[:, 400] = 1
    settings = tiny_config(training={"measurement_weight": 1.0}).training
    for rows, least, most in ((399, 0, 1e-9), (401, 1e-4, 1)):
        operator = model.operator.first(rows)
        terms = gradients.backward(model, model, batch, operator, settings, CPU)
        assert least <= float(terms["measurement"]) <= most


@pytest.mark.parametrize("parts", [1, 2])
def test_the_loss_of_a_ratio_counts_by_its_power(config, parts):
    """In the gradients: the logged loss stays the squared error. Parts change nothing."""
    model = build_model(config)
    batch = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    found = []
    for exponent in (0.0, 0.8):
        training_settings = {"ratio_exponent": exponent, "accumulate": parts, "batch_size": 2}
        settings = tiny_config(training=training_settings).training
        model.zero_grad()
        operator = model.operator.first(128)
        terms = gradients.backward(model, model, batch, operator, settings, CPU)
        found.append((float(terms["loss"]), model.network.lift.weight.grad.clone()))
    (loss, plain), (same, weighted) = found
    assert loss == same
    torch.testing.assert_close(weighted, plain * 0.25**0.8)


def test_without_a_range_every_step_counts_alike():
    config = tiny_config()
    operator = sampled(config.sampling)
    assert measured_share(config.sampling.draw(operator, generator(0, 0)), operator) == 1


@pytest.fixture
def weights(config, model, tmp_path):
    save_weights(tmp_path / "w" / "model.safetensors", model, config)
    return tmp_path / "w"


def test_a_range_begins_with_what_single_ratios_have_learned(
    image_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("lgmnet.build.START_BLOCKS", 2048)
    single, learned, output = tiny_config(), tmp_path / "w.safetensors", tmp_path / "phi.npy"
    phi = torch.randn(103, 1024)
    save_weights(learned, build_model(single, Source({"matrix": phi})), single)
    config = tiny_config(image_folder, sampling=RANGE)
    (tmp_path / "c.yaml").write_text(config.as_yaml())
    arguments = [tmp_path / "c.yaml", "--learned", learned, "--output", output]
    assert run_main("scripts/nest_phi.py", arguments, monkeypatch) == 0
    assert "512 rows, made from 103 learned rows" in capsys.readouterr().out
    start = sampled(load_config(tmp_path / "c.yaml", [f"sampling.phi_init={output}"]).sampling)
    start = start.matrix.detach()
    torch.testing.assert_close(start @ start.T, torch.eye(512), rtol=0, atol=1e-5)
    blocks = sample_blocks(open_data(config).train, 32, 2048, config.training.seed)
    measured = phi @ start.T @ start  # as far as the range measures it at all
    torch.testing.assert_close(measured @ start[:103].T @ start[:103], measured)
    torch.testing.assert_close(span(start), span(matrices.pca(blocks, 512)), rtol=0, atol=1e-5)
    for unfit, message in (
        (PROJECT / "configs/fista.yaml", "fista.yaml has no learned Φ for a single ratio"),
        ("lgm_net_tiny_all_ratios", "lgm_net_tiny_all_ratios has no learned Φ for a single"),
    ):
        arguments[-3] = unfit
        assert run_main("scripts/nest_phi.py", arguments, monkeypatch) == 1
        assert message in capsys.readouterr().err
    arguments[-3] = learned
    (tmp_path / "c.yaml").write_text(config.as_yaml().replace("block_size: 32", "block_size: 16"))
    assert run_main("scripts/nest_phi.py", arguments, monkeypatch) == 1
    assert "blocks of 32 pixels, but the config says 16" in capsys.readouterr().err
    arguments[-1] = tmp_path / "phi"
    assert run_main("scripts/nest_phi.py", arguments, monkeypatch) == 1
    assert "choose a name such as nested.npy" in capsys.readouterr().err


def test_weights_are_loaded_at_any_ratio(weights, model):
    image = torch.rand(1, 1, 32, 32)
    expected = model(image, model.operator.first(41)).image
    assert torch.equal(lgmnet.load(weights, ratio=0.04)(image).image, expected)
    assert torch.equal(lgmnet.load(weights, condition="r0.04")(image).image, expected)
    assert not lgmnet.load(weights, ratio=0.04).training
    with pytest.raises(ConfigError, match=r"0\.7, but"):
        lgmnet.load(weights, ratio=0.7)


def test_one_file_is_scored_at_several_ratios(weights, tmp_path, monkeypatch, capsys):
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), smooth_image(50, 70))
    output = tmp_path / "results"
    base = [weights, "--data", photo, "--output", output]
    assert run_main("test.py", [*base, "--ratio", "0.02", "0.3"], monkeypatch) == 0
    assert "w at 30 %" in capsys.readouterr().out
    low, high = (
        json.loads((output / label / "metrics.json").read_text()) for label in ("r0.02", "r0.30")
    )
    assert (low["ratio"], high["ratio"]) == (0.02, 0.3)
    assert low["phi_sha256"] != high["phi_sha256"]
    assert low["datasets"]["photo"]["psnr"] < high["datasets"]["photo"]["psnr"]
    assert run_main("test.py", [*base, "--ratio", "0.9"], monkeypatch) == 1
    assert "made for 0.01 to 0.5" in capsys.readouterr().err


def test_a_measurement_at_a_ratio_is_rebuilt(weights, tmp_path, monkeypatch, capsys):
    photo, y, out = tmp_path / "photo.png", tmp_path / "y.safetensors", tmp_path / "out.png"
    cv2.imwrite(str(photo), smooth_image(64, 96))
    measure = [photo, "--weights", weights, "--output", y, "--ratio", "0.04"]
    assert run_main("scripts/measure.py", measure, monkeypatch) == 0
    assert "(4.0%)" in capsys.readouterr().out
    rebuild = [y, "--weights", weights, "--output", out]
    assert run_main("scripts/reconstruct.py", rebuild, monkeypatch) == 0
    rebuilt = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    image = torch.from_numpy(cv2.imread(str(photo), cv2.IMREAD_UNCHANGED))[None, None].float()
    with torch.inference_mode():
        expected = lgmnet.load(weights, ratio=0.04)(image / 255).image[0, 0]
    np.testing.assert_allclose(rebuilt, (255 * expected).clamp(0, 255).round(), atol=1)
