"""What measures is chosen by ``sampling.operator``: settings, conditions, weights, commands."""

import json

import numpy as np
import pytest
import torch
from scipy.io import savemat

import lgmnet
from lgmnet.build import Source, at_condition, build_model
from lgmnet.config import ConfigError, config_from_dict
from lgmnet.conversion import override_tree
from lgmnet.costs.benchmark import Subject, TrainingStep
from lgmnet.models import ISTA, create_network
from lgmnet.operators import OPERATORS, FourierMask, masks
from lgmnet.operators.ratios import condition_of, ratio_label
from lgmnet.runtime import Runtime
from lgmnet.speed.strips import InStrips
from lgmnet.training.loop import train
from lgmnet.weights.export import export_model
from lgmnet.weights.saved import Weights, adopt_weights, save_weights
from tests.conftest import tiny_config
from tests.test_scripts import run_main
from tests.test_training import final, train_steps

CPU = Runtime(torch.device("cpu"))

SIZE = (64, 64)
DRAWN = {"operator": "fourier_mask", "mask": "variable_density", "size": SIZE, "fraction": 0.3}


def sampling(**changes):
    """The sampling of a config of FISTA, which works on any operator."""
    return mask_config(**changes).sampling


def mask_config(**changes):
    return config_from_dict(
        {"model": {"name": "lgm_net", "D": 1, "dim": 2, "dimf": 2, "scales": 2},
         "sampling": DRAWN | changes}
    )  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """Two mask files, ``a.mat`` with 20 % and ``b.npy`` with 40 % of the frequencies."""
    few, many = (masks.variable_density(SIZE, f).numpy() for f in (0.2, 0.4))
    savemat(tmp_path / "a.mat", {"mask_matrix": few.astype(float)})
    np.save(tmp_path / "b.npy", many)
    return [str(tmp_path / "a.mat"), str(tmp_path / "b.npy")]


@pytest.fixture
def several(files):
    return mask_config(mask=files)


def test_block_sampling_is_what_is_meant_where_nothing_is_said():
    tree = tiny_config().as_dict()
    assert "operator" not in tree["sampling"]
    tree["sampling"]["operator"] = "block_sampling"
    assert config_from_dict(tree) == tiny_config()


def test_a_config_gives_itself_again(several):
    again = config_from_dict(json.loads(json.dumps(several.as_dict())))
    assert again == several
    assert again.as_dict()["sampling"]["operator"] == "fourier_mask"
    assert list(again.as_dict()["sampling"])[-1] == "noise_std"


SETTINGS = {
    "blur_down": {"operator": "blur_down", "channels": 3},
    "coded_aperture": {
        "operator": "coded_aperture",
        "mask": "random",
        "size": [8, 8],
        "bands": 3,
    },
    "block_sampling": tiny_config().as_dict()["sampling"],
    "fourier_mask": DRAWN | {"complex": True},
    "parallel_beam": {"operator": "parallel_beam", "side": 16, "views": 3},
}


@pytest.mark.parametrize("name", OPERATORS.names())
def test_sizes_are_known_before_the_operator_is_made(name):
    tree = tiny_config().as_dict() | {"sampling": SETTINGS[name]}
    sampling = config_from_dict(tree).sampling
    assert sampling.sizes() == sampling.make(Source()).sizes()


def test_an_unknown_operator_or_key_is_named():
    with pytest.raises(ConfigError, match=r"sampling.operator is 'fourier', expected one of block"):
        sampling(operator="fourier")
    with pytest.raises(ConfigError, match="unknown config key 'sampling.block_size'"):
        sampling(block_size=32)
    with pytest.raises(ConfigError, match="unknown config key 'sampling.mask'"):
        tiny_config(sampling={"mask": "a.mat"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": "nowhere.mat"}, "sampling.mask: there is no mask at nowhere.mat"),
        ({"mask": "radial"}, "it is 'radial', expected a file, or one of pseudo_radial"),
        ({"fraction": 1.5}, "the fraction is 1.5"),
        ({"mask": "pseudo_radial", "fraction": 0}, "the fraction is 0.0"),
        ({"mask": "cartesian", "centre_fraction": 0.9}, "the centre fraction is 0.9"),
    ],
)
def test_masks_that_cannot_be_made_are_explained(changes, message):
    with pytest.raises(ConfigError, match=message):
        sampling(**changes).make(Source())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [64]}, r"sampling.size is \[64\], expected \[H, W\]"),
        ({"mask": ["x/a.mat", "y/a.npy"]}, "sampling.mask has two files with the name 'a'"),
        ({"mask": []}, "sampling.mask is empty"),
        ({"noise_std": -1}, "sampling.noise_std is -1.0"),
    ],
)
def test_settings_of_masks_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        sampling(**changes)


def test_masks_of_different_sizes_are_refused(files, tmp_path):
    np.save(tmp_path / "c.npy", masks.cartesian((32, 64), 0.5).numpy())
    with pytest.raises(ConfigError, match=r"sizes \[\(32, 64\), \(64, 64\)\], expected one size"):
        sampling(mask=[files[0], str(tmp_path / "c.npy")]).make(Source())


@pytest.mark.parametrize("kind", masks.KINDS)
def test_a_drawn_mask_has_its_fraction_and_depends_on_its_seed(kind):
    first, again, other = (
        sampling(mask=kind, mask_seed=seed).make(Source()).mask for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert masks.sampling_ratio(first) == pytest.approx(0.3, abs=0.02)


def test_a_mask_is_found_below_the_folder_of_the_data(files, tmp_path, monkeypatch):
    monkeypatch.setattr("lgmnet.build.data_roots", lambda: [tmp_path])
    operator = sampling(mask="a.mat").make(Source())
    assert masks.sampling_ratio(operator.mask) == pytest.approx(0.2, abs=1e-3)


def test_every_mask_is_a_condition(several):
    model = build_model(several).eval()
    image = torch.rand(1, 1, *SIZE)
    assert several.sampling.conditions == ("a", "b")
    assert several.sampling.label == "a-b"
    for k, name in enumerate(("a", "b")):
        chosen = at_condition(model, several.sampling, name)
        assert torch.equal(chosen.operator.mask, model.operator.masks[k])
        assert chosen.operator.masks is model.operator.masks
        assert torch.equal(chosen(image).image, model(image, model.operator.choose(k)).image)
    assert not torch.equal(model.operator.choose(0)(image), model.operator.choose(1)(image))
    with pytest.raises(ConfigError, match="the condition is 'c', expected one of a, b"):
        at_condition(model, several.sampling, "c")


def test_a_step_draws_every_mask(several):
    operator = several.sampling.make(Source())
    random = np.random.default_rng(0)
    assert {several.sampling.draw(operator, random).chosen for _ in range(20)} == {0, 1}


def test_weights_hold_their_masks(several, files, tmp_path):
    """The files need not be there any more, and nothing of the masks is rounded."""
    model = build_model(several).eval()
    path = tmp_path / "w" / "model.safetensors"
    save_weights(path, model, several, precision=torch.bfloat16)
    for file in files:
        open(file, "w").close()
    for condition in (None, "a", "b"):
        loaded = Weights(path).load(condition)
        expected = at_condition(model, several.sampling, condition).operator
        assert loaded.operator.mask.dtype == torch.bool
        assert loaded.operator.fingerprint() == expected.fingerprint()
    assert Weights(path).metadata["phi_sha256"] == model.operator.fingerprint()
    assert torch.equal(lgmnet.load(path, condition="b").operator.mask, model.operator.masks[1])


def test_ratios_are_conditions_without_loss():
    assert ratio_label(0.1) == "r0.10"
    single = tiny_config(sampling={"ratio": 109 / 1089, "block_size": 33}).sampling
    assert single.ratio_of(single.conditions[0]) == 109 / 1089
    several = tiny_config(sampling={"ratio": [0.01, 0.5]}).sampling
    measurement = torch.zeros(1, 103, 2, 2)
    assert several.measurements(several.ratio_of(several.measured_at(measurement))) == 103
    assert condition_of(0.05, None) == condition_of(None, "r0.05") == "r0.05"
    with pytest.raises(ConfigError, match="the condition is 'mask_20', expected r and a ratio"):
        several.condition("mask_20")


def test_a_network_that_needs_blocks_says_so():
    with pytest.raises(ConfigError, match="needs measurements, which only block sampling has|blo"):
        build_model(config_from_dict({"model": {"name": "amp_net"}, "sampling": DRAWN}))


def test_a_network_of_one_channel_refuses_complex_images():
    with pytest.raises(ConfigError, match="lgm_net reconstructs images of one channel, but"):
        build_model(mask_config(complex=True))


def test_sizes_belong_to_the_operator():
    with pytest.raises(ValueError, match=r"model.block_size follows from sampling"):
        create_network("ista", {"block_size": 8}, {"block_size": 8})
    assert isinstance(create_network("ista", {}, {"block_size": 8}), ISTA)


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_measured_can_be_looked_at(channels):
    picture = FourierMask(masks.cartesian((8, 6), 0.5), channels).picture()
    assert picture.shape == (8, 6)
    assert picture[4, 3] == 1  # the zero frequency is in the middle
    assert tiny_config().sampling.make(Source()).picture().shape == (256, 256)


def test_commands_for_block_sampling_say_so(tmp_path, monkeypatch, capsys):
    config = tmp_path / "mri.yaml"
    config.write_text(mask_config().as_yaml())
    for script, arguments in (
        ("scripts/nest_phi.py", [config, "--learned", "x", "--output", tmp_path / "x.npy"]),
        ("scripts/measure_inference.py", [config]),
    ):
        assert run_main(script, arguments, monkeypatch) == 1
        assert "this command works on block sampling only" in capsys.readouterr().err


def test_what_has_no_strips_says_so(tmp_path):
    config = mask_config()
    model = build_model(config)
    with pytest.raises(ValueError, match="FourierMask measures the whole image at once"):
        InStrips(model, 2**30)


def test_a_model_of_any_operator_is_exported(tmp_path):
    model = build_model(mask_config()).eval()
    export_model(model, tmp_path / "m.pt2")  # what was exported is compared with the model
    assert (tmp_path / "m.pt2").stat().st_size


def test_an_empty_value_on_the_command_line_is_an_empty_text():
    assert override_tree(["data.validation="]) == {"data": {"validation": ""}}


def test_training_steps_of_any_operator_are_timed(image_folder):
    config = tiny_config(image_folder).as_dict()
    config["sampling"] = DRAWN | {"size": [32, 32]}
    config["data"]["crop_size"] = 32
    config = config_from_dict(config)
    step = TrainingStep(Subject("x", build_model(config), config), [str(image_folder)], 2, CPU)
    step()
    assert step.parts["forward"] > 0


@pytest.mark.parametrize("color", ["luma", "bands"])
def test_a_run_with_masks_stops_and_resumes_to_the_bit(tmp_path, monkeypatch, color):
    """Also of complex images, of two masks that are drawn step by step."""
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for k in range(3):
        image = random.uniform(0, 0.7, (32, 32))
        complex_image = image * np.exp(1j * random.uniform(0, 1, (32, 32)))
        array = image.astype(np.float32) if color == "luma" else complex_image.astype(np.complex64)
        np.save(tmp_path / "images" / f"{k}.npy", array)
    paths = []
    for fraction in (0.3, 0.6):
        paths.append(str(tmp_path / f"m{fraction}.npy"))
        np.save(paths[-1], masks.variable_density((32, 32), fraction).numpy())
    config = tiny_config(tmp_path / "images").as_dict()
    config["model"] = {"name": "admm_csnet", "stages": 2, "channels": 2}
    config["sampling"] = {
        "operator": "fourier_mask", "mask": paths, "complex": color == "bands", "noise_std": 0.01,
    }  # fmt: skip
    config["data"] |= {"crop_size": 32, "color": color}
    config["training"] |= {"loss": "nmse"}
    config = config_from_dict(config)
    train(config, tmp_path / "whole", CPU)
    train_steps(config, tmp_path / "parts", 3, monkeypatch)
    train(config, tmp_path / "parts", CPU, resume=True)
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_run_keeps_its_mask_when_it_starts_from_weights_of_another(files, tmp_path):
    """What is asked for is measured; only Φ of block sampling is taken over."""
    first, second = (mask_config(mask=file) for file in files)
    save_weights(tmp_path / "w.safetensors", build_model(first), first)
    model = build_model(second)
    own = model.operator.mask.clone()
    adopt_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model.operator.mask, own)


@pytest.mark.parametrize("name", ["fourier_mask", "blur_down"])
def test_an_operator_that_was_chosen_moves_alone(name):
    """It shares the tensors, and a move of one leaves the other where it is."""
    tree = {"model": {"name": "back_projection"}, "sampling": SETTINGS[name]}
    whole = config_from_dict(tree).sampling.make(Source())
    chosen = whole.choose(0)
    [tensor], [shared] = whole.buffers(), chosen.buffers()
    assert shared is tensor
    chosen.to("meta")
    assert next(chosen.buffers()).is_meta
    assert next(whole.buffers()) is tensor
