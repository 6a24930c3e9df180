"""Computed tomography: the rays, filtered back projection, settings, weights without Φ."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from skimage.transform import iradon, radon
from torch.utils.flop_counter import FlopCounterMode

from lgmnet.build import Source, build_model
from lgmnet.config import ConfigError, config_from_dict
from lgmnet.data import stacks
from lgmnet.data.phantoms import phantom, phantoms
from lgmnet.models import MODELS
from lgmnet.operators import ParallelBeam, rays
from lgmnet.operators.parallel_beam import equal_angles, gaps
from lgmnet.weights.saved import Weights, save_weights
from tests.conftest import PROJECT
from tests.test_scripts import run_main

BEAM = {"operator": "parallel_beam", "side": 16, "views": 5}


def beam_config(**changes):
    sampling = {key: value for key, value in (BEAM | changes).items() if value is not None}
    return config_from_dict(
        {"model": {"name": "fista", "prior": "tv", "iterations": 3}, "sampling": sampling}
    )


def blobs(side):
    """A smooth image in the inscribed circle, and where that circle is."""
    line = np.linspace(-1, 1, side)
    x, y = np.meshgrid(line, line)
    image = np.exp(-(((x - 0.2) / 0.25) ** 2) - ((y + 0.15) / 0.3) ** 2)
    image += 0.5 * np.exp(-(((x + 0.3) / 0.15) ** 2) - ((y - 0.25) / 0.2) ** 2)
    inside = x**2 + y**2 < 0.9
    return image * inside, inside


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_the_lengths_are_those_of_the_rays_in_the_pixels():
    """Compared with many points along each ray, counted pixel by pixel."""
    side, detectors, step = 5, 8, 1e-4
    for angle in (0.0, 30.0, 45.0, 90.0, 117.0, 200.0):
        lengths = rays.view_lengths(side, angle, detectors).toarray()
        along = np.arange(-5, 5, step) + step / 2
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        for ray, t in enumerate(np.arange(detectors) - (detectors - 1) / 2):
            columns = np.floor(t * cos + along * sin + side / 2 + 1e-9).astype(int)
            rows = np.floor(-t * sin + along * cos + side / 2 + 1e-9).astype(int)
            inside = (columns >= 0) & (columns < side) & (rows >= 0) & (rows < side)
            if abs(cos) < 1e-9 or abs(sin) < 1e-9:
                continue  # along the edges of pixels: see below
            counted = np.bincount(rows[inside] * side + columns[inside], minlength=side**2) * step
            np.testing.assert_allclose(lengths[ray], counted, atol=5 * step)


def test_a_ray_along_an_edge_is_half_in_both_pixels():
    lengths = rays.view_lengths(4, 0.0, 5).toarray().reshape(5, 4, 4)
    np.testing.assert_allclose(lengths[1], [[0.5, 0.5, 0, 0]] * 4, atol=1e-6)
    across = rays.view_lengths(4, 90.0, 4).toarray().reshape(4, 4, 4)
    np.testing.assert_allclose(across[3], [[1] * 4] + [[0] * 4] * 3, atol=1e-6)


@pytest.mark.parametrize(("side", "tolerance"), [(65, 2e-3), (129, 4e-4)])
def test_a_sinogram_is_that_of_scikit_image(side, tolerance):
    """Odd sides: the middle of an even one is elsewhere in scikit-image."""
    image, _ = blobs(side)
    angles = equal_angles(12)
    operator = ParallelBeam(side, angles, side).double()
    sinogram = operator(torch.from_numpy(image)[None, None])[0, 0].numpy() * operator.unit
    assert relative(sinogram, radon(image, np.array(angles), circle=True).T) < tolerance


@pytest.mark.parametrize(("window", "tolerance"), [("ramp", 1e-12), ("hann", 1e-3)])
def test_filtered_back_projection_is_that_of_scikit_image(window, tolerance):
    """With hann up to the last sample of the window, which is 0 here and in the middle there."""
    image, inside = blobs(65)
    angles = equal_angles(40)
    sinogram = radon(image, np.array(angles), circle=True)
    expected = iradon(sinogram, np.array(angles), filter_name=window, circle=True)
    operator = ParallelBeam(65, angles, 65).double()
    measurement = torch.from_numpy(sinogram.T.copy())[None, None] / operator.unit
    found = operator.fbp(measurement, window)[0, 0].numpy()
    assert relative(found[inside], expected[inside]) < tolerance
    assert relative(found[inside], image[inside]) < 0.05


def test_views_count_as_much_as_the_gaps_around_them():
    np.testing.assert_allclose(gaps((0, 90, 100)), np.deg2rad([85, 50, 45]))
    np.testing.assert_allclose(gaps(equal_angles(7)), np.pi / 7)
    assert gaps((30,)) == [np.pi]
    image, inside = blobs(65)
    uneven = ParallelBeam(65, [*range(0, 90, 2), *range(90, 180, 3)]).double()
    found = uneven.fbp(uneven(torch.from_numpy(image)[None, None]))[0, 0].numpy()
    assert relative(found[inside], image[inside]) < 0.05


def test_fbp_passes_gradients_and_is_linear():
    operator = ParallelBeam(5, (0, 50, 100)).double()
    measurement = torch.randn(2, 1, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operator.fbp, measurement)
    with pytest.raises(ValueError, match="window is 'hamming', expected one of ramp, hann"):
        operator.fbp(measurement, "hamming")


@pytest.mark.parametrize(("side", "views"), [(16, 5), (64, 20), (64, 90)])
def test_the_norm_is_about_one(side, views):
    assert 0.9 < ParallelBeam(side, equal_angles(views)).lipschitz() < 1.1


def test_a_projection_of_noise_has_the_smallest_residual():
    """More rays than pixels: no image has this measurement."""
    operator = ParallelBeam(6, equal_angles(9)).double()
    measurement = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    projected = operator.project(torch.zeros(1, 1, 6, 6).double(), measurement)
    left = measurement - operator(projected)
    assert left.norm() > 0.1
    assert operator.adjoint(left).norm() < 1e-9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": None}, r"sampling.views is None and sampling.angles is \[\]; set one of them"),
        ({"angles": [0, 10]}, r"sampling.views is 5 and sampling.angles is \[0.0, 10.0\]; set one"),
        ({"views": 0}, "sampling.views is 0, expected at least 1"),
        ({"side": 0}, "sampling.side is 0, expected at least 1 pixel"),
        ({"views": None, "angles": [0, 20, 20]}, "the angle 20° is repeated"),
        (
            {"views": None, "angles": [0, 20, 180]},
            "the angle 0° is repeated; angles that differ by",
        ),
        ({"views": None, "angles": [0, "nan"]}, "the angle nan is no number"),
        ({"detectors": 15}, "there are 15 detectors, expected at least 16.*23 cover its diagonal"),
        ({"side": 100_000}, r"the rays need .* GB, expected at most 8 GB; choose a smaller side"),
        ({"side": None}, "sampling.side is missing"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        beam_config(**changes)


def test_settings_give_themselves_again():
    for changes in ({}, {"views": None, "angles": [0, 45.5], "detectors": 20}):
        config = beam_config(**changes)
        assert config_from_dict(config.as_dict()) == config
    assert (config.sampling.label, config.sampling.conditions) == ("2views", ("2views",))
    assert config.sampling.make(Source()).angles == (0, 45.5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 1, 15, 16), "has 15 x 16 pixels"), ((1, 3, 16, 16), "expected \\(batch, 1, H, W\\)")],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    operator = ParallelBeam(16, equal_angles(5))
    with pytest.raises(ValueError, match=message):
        operator(torch.zeros(shape))
    expected = r"expected \(batch, 1, 5, 23\): \(batch, 1, views, detectors\)"
    for method in (operator.adjoint, operator.fbp):
        with pytest.raises(ValueError, match=expected):
            method(torch.zeros(shape))


def test_weights_do_not_hold_the_matrix(tmp_path):
    """It is made again, and it is the same."""
    config = beam_config()
    model = build_model(config).eval()
    assert not any(name.startswith("operator") for name in model.state_dict())
    save_weights(tmp_path / "w.safetensors", model, config)
    weights = Weights(tmp_path / "w.safetensors")
    image = torch.rand(1, 1, 16, 16)
    assert torch.equal(weights.load()(image).image, model(image).image)
    assert weights.metadata["phi_sha256"] == model.operator.fingerprint()


def test_other_geometries_have_other_fingerprints():
    operators = (
        ParallelBeam(16, (0, 90)), ParallelBeam(16, (0, 91)), ParallelBeam(16, (0, 90), 24),
        ParallelBeam(15, (0, 90), 23),
    )  # fmt: skip
    assert len({operator.fingerprint() for operator in operators}) == 4


def test_without_values_there_are_shapes_and_no_matrix():
    with torch.device("meta"):
        operator = ParallelBeam(2000, equal_angles(1000))
        measurement = operator(torch.empty(1, 1, 2000, 2000))
    assert measurement.is_meta
    assert measurement.shape == (1, 1, 1000, 2829)
    assert operator.adjoint(measurement).shape == (1, 1, 2000, 2000)
    assert operator.rays_values.numel() == 0


def test_its_arithmetic_is_counted():
    """Also of a copy without values, which `complexity.cost` counts with."""
    operator = ParallelBeam(16, equal_angles(5))
    entries = operator.rays_values.numel()
    for each, device in ((operator, "cpu"), (copy.deepcopy(operator).to("meta"), "meta")):
        with FlopCounterMode(display=False) as counter:
            each.gram(torch.zeros(3, 1, 16, 16, device=device))
        assert counter.get_total_flops() == 2 * 2 * 3 * entries


# FISTA-Net as configs/ct_fista_net.yaml has it, but small.
FILTERED = {"start": "fbp", "w_tilde": "fbp", "prior_domain": "image"}
ALISTA = {"start": "back_projection", "w_tilde": "alista", "prior_domain": "image"}


def fista_net(**options):
    return MODELS.create("fista_net", stages=3, channels=8, **FILTERED | options)


def test_back_projection_with_a_window_is_filtered():
    model = build_model(beam_config()).eval()
    measurement = torch.randn(1, 1, 5, 23)
    for window in ("ramp", "hann"):
        found = MODELS.create("back_projection", window=window)(measurement, model.operator).image
        assert torch.equal(found, model.operator.fbp(measurement, window))
    with pytest.raises(ValueError, match="window is 'none', expected one of ramp, hann"):
        MODELS.create("back_projection", window="none")


def test_fista_net_starts_with_and_steps_by_filtered_back_projection():
    """Without its prior, one step from x⁰ is x⁰ − μ fbp(Φx⁰ − y)."""
    operator = ParallelBeam(16, equal_angles(5))
    measurement = operator(torch.rand(1, 1, 16, 16))
    seen = []

    def nothing(image, threshold):
        seen.append(image)
        return image, None, image

    network = fista_net(nonneg=False).eval()
    network.prior.forward = nothing
    network(measurement, operator)
    first = operator.fbp(measurement)
    step = network.schedule(0)[0]
    expected = first - step * operator.fbp(operator(first) - measurement)
    torch.testing.assert_close(seen[0], expected)
    assert not torch.allclose(seen[0], first)


def test_alista_weights_are_the_pseudo_inverse_with_rows_scaled():
    """By their definition: w_jᵀφ_j = 1."""
    operator = ParallelBeam(6, equal_angles(3))
    phi = operator(torch.eye(36).reshape(36, 1, 6, 6))
    images = operator.alista(phi).flatten(1).double()
    phi = phi.flatten(1).double()  # row j is column j of Φ
    torch.testing.assert_close(images.diagonal(), torch.ones(36).double(), rtol=1e-4, atol=0)
    normalised = phi / phi.norm(dim=1, keepdim=True)
    inverse = torch.linalg.pinv(normalised, rtol=1e-3)  # of singular values: the root of TOLERANCE
    expected = (phi @ inverse) / (phi @ inverse).diagonal()
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)
    assert not torch.allclose(images, torch.eye(36).double(), atol=0.1)


def test_alista_is_refused_for_large_images():
    """When the model is built, not after minutes."""
    config = beam_config(side=320, views=60)
    model = dataclasses.replace(config.model, name="fista_net", options=dict(ALISTA))
    refused = pytest.raises(ConfigError, match="for images of 320 x 320 pixels with 60 .*=fbp, or")
    with refused, torch.device("meta"):
        build_model(dataclasses.replace(config, model=model))


@pytest.mark.parametrize("options", [{}, {"start": "back_projection", "w_tilde": "phi"}, ALISTA])
def test_fista_net_learns_on_a_beam(options):
    operator = ParallelBeam(16, equal_angles(5))
    network = fista_net(**options)
    result = network(operator(4 * torch.rand(2, 1, 16, 16)), operator)
    (result.image.square().mean() + sum(result.penalties.values())).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"name": "back_projection", "window": "ramp"},
            "window 'ramp' is filtered back projection",
        ),
        ({"name": "fista_net"} | FILTERED | {"w_tilde": "phi"}, "start 'fbp' is filtered back"),
        ({"name": "fista_net"} | FILTERED | {"start": "back_projection"}, "w_tilde 'fbp' is filt"),
        ({"name": "fista_net"} | ALISTA, "w_tilde is 'alista', which is made of a matrix Φ"),
    ],
)
def test_what_needs_a_beam_is_refused_without_one(model, message):
    sampling = {"operator": "fourier_mask", "mask": "pseudo_radial", "size": [16, 16]}
    with pytest.raises(ConfigError, match=message + ".*the operator (is FourierMask|has none)"):
        build_model(config_from_dict({"model": model, "sampling": sampling}))


def test_phantoms_depend_on_seed_and_number_alone():
    images = phantoms(3, 32, seed=1)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert 0.2 < images.max() <= 1
    np.testing.assert_array_equal(phantom(32, 1, 2), images[2])
    assert not np.array_equal(phantom(32, 2, 2), images[2])
    line = (np.arange(32) + 0.5) / 16 - 1
    assert not images[:, line**2 + line[:, None] ** 2 > 1.1].any()
    with pytest.raises(ValueError, match="count is 0 and side is 8, expected at least 1"):
        phantoms(0, 8)


def test_phantoms_of_any_side_are_read_again(tmp_path, monkeypatch):
    """A last axis of at most 64 would be taken for channels."""
    output = tmp_path / "new" / "p.npz"
    arguments = ["--count", 2, "--side", 32, "--seed", 3, "--output", output]
    assert run_main("scripts/make_phantoms.py", arguments, monkeypatch) == 0
    images = [stacks.read(path) for path in stacks.members(output)]
    np.testing.assert_array_equal(np.stack(images), phantoms(2, 32, 3))
    assert (
        run_main("scripts/make_phantoms.py", ["--count", 0, "--output", output], monkeypatch) == 1
    )


def test_a_network_is_trained_and_scored_with_rmse(tmp_path, monkeypatch):
    """Phantoms 0 to 2 train; number 3 validates, and is scored at the end of the run."""
    np.savez(tmp_path / "p.npz", images=phantoms(4, 32)[..., None])
    data = [f"data.train={tmp_path}/p.npz[:3]", f"data.validation={tmp_path}/p.npz[3:]",
            f"evaluation.datasets={tmp_path}/p.npz"]  # fmt: skip
    small = ["sampling.side=32", "sampling.views=6", "data.crop_size=32", "model.stages=3",
             "model.channels=4", "training.minutes=0", "training.epochs=1",
             "training.steps_per_epoch=2"]  # fmt: skip
    run, config = tmp_path / "run", PROJECT / "configs" / "ct_fista_net.yaml"
    assert run_main("train.py", [config, *data, *small, "--output", run], monkeypatch) == 0
    [found] = list(run.rglob("metrics.json"))
    scores = json.loads(found.read_text())["datasets"]["p"]
    assert scores["psnr"] == pytest.approx(-20 * np.log10(scores["rmse"]))
    each = [values["rmse"] for values in scores["images"].values()]
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(each))))
    table = found.with_suffix(".csv").read_text().splitlines()
    assert table[0] == "dataset,image,psnr,ssim,rmse,seconds"
