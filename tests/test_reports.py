"""report.html and robustness: content, safety of names, numbers."""

import csv
import json
import math
import re

import cv2
import numpy as np
import pytest
import torch

from lgmnet import metrics
from lgmnet.build import build_model
from lgmnet.commands import call
from lgmnet.config import config_from_dict
from lgmnet.data.datasets import NamedImage
from lgmnet.evaluation.rebuild import Rules, evaluate
from lgmnet.models import MODELS, SensingModel
from lgmnet.operators import (
    BlockSampling,
    BlurDown,
    CodedAperture,
    FourierMask,
    ParallelBeam,
    masks,
    matrices,
)
from lgmnet.operators.base import tiles
from lgmnet.reports.examine import describe_operator, examine, learned_values, spread
from lgmnet.reports.page import number
from lgmnet.reports.pictures import curve, data_uri, error_map, shown
from lgmnet.reports.robustness import mismatched, noisy, parts, quantised, robustness
from lgmnet.runtime import Runtime
from lgmnet.weights.saved import save_weights
from tests.conftest import smooth_image, tiny_config
from tests.test_models import small_model

CPU = Runtime(torch.device("cpu"))
EVIL = "a<img src=x onerror=alert(1)>&'</script>"


@pytest.fixture
def two_weights(tmp_path):
    """Folders with an LGM-Net and an ISTA-Net⁺ that nobody has trained."""
    first = tiny_config(model={"phity_skip": True}, sampling={"phi_init": "orthonormal"})
    model = {"name": "ista_net_plus", "stages": 3, "channels": 4, "start": "back_projection"}
    second = config_from_dict(tiny_config().as_dict() | {"model": model})
    for name, config in {"one": first, "two": second}.items():
        save_weights(tmp_path / name / "model.safetensors", build_model(config), config)
    return tmp_path / "one", tmp_path / "two"


@pytest.fixture
def photos(tmp_path):
    """Three images; the name of one is made to break a page."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for k, name in enumerate(("plain", "other", EVIL.replace("/", "\u2215"))):
        cv2.imwrite(str(folder / "x.png"), smooth_image(64, 96, k))
        (folder / "x.png").rename(folder / f"{name}.png")
    return folder


@pytest.fixture
def page(two_weights, photos, tmp_path):
    path = tmp_path / "report.html"
    arguments = [*map(str, two_weights), "--data", str(photos), "--output", str(path)]
    assert call("report", [*arguments, "--device", "cpu"], "report") == 0
    return path


def content(path):
    text = path.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return text, json.loads(found[1])


def test_a_page_has_scores_pictures_and_stages_of_all_weights(page):
    text, data = content(page)
    assert [one["label"] for one in data["about"]] == ["one", "two"]
    assert len(data["examples"]) == 3
    means = [np.mean([v["psnr"] for v in e["views"]]) for e in data["examples"]]
    assert means == sorted(means)
    for example in data["examples"]:
        for view in example["views"]:
            assert view["stages"][-1]["psnr"] == view["psnr"]
            assert view["stages"][-1]["src"] == view["image"]
            assert f"{view['psnr']:.2f}" in text


def test_a_page_makes_no_request_and_names_cannot_break_it(page):
    text, data = content(page)
    assert "default-src 'none'" in text
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "http:" not in re.sub(r"http://www.w3.org/2000/svg", "", text)
    assert "<img src=x" not in text
    assert any("<img src=x" in e["name"] for e in data["examples"])
    assert len(text) < 20_000_000


def test_test_py_writes_the_page_beside_its_scores(weights, photos, tmp_path, capsys):
    arguments = [str(weights), "--data", str(photos), "--output", str(tmp_path / "out")]
    assert call("test", [*arguments, "--report", "--device", "cpu"], "test.py") == 0
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())
    seams = scores["datasets"]["photos"]["images"]["plain"]["seams"]
    _, data = content(tmp_path / "out" / "report.html")
    own = next(e for e in data["examples"] if e["name"] == "plain")
    exact = scores["datasets"]["photos"]["images"]["plain"]["psnr"]
    assert own["views"][0]["psnr"] == pytest.approx(exact, abs=1e-9)  # so it is rounded once
    assert f"written to {tmp_path / 'out' / 'report.html'}" in capsys.readouterr().out
    lines = {"": "replaced the page {}/report.html",
             "--padding=replicate": "written to {}/report.replicate.html"}  # fmt: skip
    for option, said in lines.items():
        options = [option] if option else []
        assert call("test", [*arguments, "--report", "--device", "cpu", *options], "test.py") == 0
        assert said.format(tmp_path / "out") in capsys.readouterr().out
    assert own["views"][0]["seams"] == pytest.approx(seams, abs=1e-3)


def test_a_wrong_number_of_images_is_refused(weights, photos, tmp_path, capsys):
    arguments = [str(weights), "--data", str(photos), "--images", "0", "--device", "cpu"]
    assert call("report", arguments, "report") == 1
    assert "is 0, expected at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("color", ["luma", "rgb"])
def test_examined_images_have_the_scores_of_test_py(color):
    model = small_model("lgm_net").eval()
    pixels = np.dstack([smooth_image(64, 80, k) for k in range(3)])
    rules = Rules(color=color)
    image = NamedImage("photo", pixels)
    [expected] = evaluate(model, [image], CPU, rules)
    found = examine(model, image, rules, 3)
    assert found.score == expected.score
    assert found.seams == pytest.approx(expected.seams)
    assert found.estimates[-1].psnr == expected.score.psnr
    assert sum(e.pixels is not None for e in found.estimates) == 3
    assert found.start.residual < 1e-4


def test_a_complex_image_is_examined():
    operator = FourierMask(masks.pseudo_radial((64, 64), 16), channels=2)
    model = SensingModel(operator, MODELS.create("ista", iterations=4)).eval()
    pixels = np.dstack([smooth_image(64, 64, k) / 400 for k in range(2)]).astype(np.float32)
    rules = Rules(metrics.PROTOCOLS["mri"], "bands", "crop")
    found = examine(model, NamedImage("scan", pixels), rules, 12)
    assert shown(found.truth).shape == (64, 64)
    assert math.isnan(found.seams)
    assert describe_operator(operator).tiles is not None


# The measurement as a picture.


def measured(operator, image):
    return operator.picture_of(operator(image))


def test_every_number_of_a_block_is_a_tile_with_its_own_range():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    picture = measured(BlockSampling(torch.eye(4), 2), image)
    tile = torch.tensor([[0.0, 2], [8, 10]]) / 10  # the upper left pixels of the blocks
    torch.testing.assert_close(picture, tile.repeat(2, 2))
    assert tiles(torch.rand(5, 2, 2)).shape == (4, 4)  # they fill a square; the fifth is left out


def test_a_camera_with_one_block_has_a_picture():
    picture = measured(BlockSampling(torch.eye(4), 2), torch.tensor([[[[0.0, 1], [2, 4]]]]))
    torch.testing.assert_close(picture, torch.tensor([[0.0, 0.25], [0.5, 1]]))


@pytest.mark.parametrize("channels", [1, 2])
def test_measured_frequencies_are_shown_with_frequency_zero_in_the_middle(channels):
    operator = FourierMask(masks.pseudo_radial((64, 64), 16), channels=channels)
    picture = measured(operator, torch.rand(1, channels, 64, 64) + 1)
    assert picture.max() == picture[32, 32] == 1
    assert not picture[~torch.fft.fftshift(operator.mask)].any()


def test_a_small_image_a_snapshot_and_a_sinogram_are_shown_as_they_are():
    colours = torch.rand(1, 3, 8, 8)
    small = measured(BlurDown(torch.ones(1, 1), 2, channels=3), colours)
    torch.testing.assert_close(small, colours[0, :, ::2, ::2].permute(1, 2, 0))
    snapshot = CodedAperture(torch.ones(4, 4), bands=2, step=1)
    picture = measured(snapshot, torch.tensor([1.0, 3]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4))
    torch.testing.assert_close(picture, torch.tensor([0.0, 1, 1, 1, 2 / 3]).expand(4, 5))
    sinogram = measured(ParallelBeam(8, (0.0, 90.0)), torch.rand(1, 1, 8, 8))
    assert sinogram.shape[0] == 2
    assert (sinogram.min(), sinogram.max()) == (0, 1)


def test_many_bands_are_shown_in_colours_and_their_error_is_the_mean():
    cube = np.zeros((2, 2, 28))
    cube[..., -1], cube[..., 0] = 90, 200  # red is the last third (9 bands), blue the first (10)
    assert shown(cube).tolist() == [[[20, 0, 10]] * 2] * 2
    black, mean = np.zeros((2, 2)), np.full((2, 2), 290 / 28)
    assert np.array_equal(error_map(cube, 0 * cube), error_map(mean, black))


def test_the_page_shows_the_measurement_and_the_start(page):
    _, data = content(page)
    assert data["about"][0]["shows"] == BlockSampling.shows
    for example in data["examples"]:
        for view in example["views"]:
            assert view["measured"]["shape"] == [103, 2, 3]
            assert (view["measured"]["height"], view["measured"]["width"]) == (16, 24)
            assert view["first"]["src"] == view["stages"][0]["src"]
            assert view["first"]["psnr"] == pytest.approx(view["stages"][0]["psnr"], abs=1e-3)


def test_signals_are_curves(weights, tmp_path):
    signal = np.zeros((1, 96, 32, 1), np.float32)
    signal[0, :16] = 1  # the first half of the first line
    np.savez(tmp_path / "ecg.npz", images=signal)
    arguments = [str(weights), "--data", str(tmp_path / "ecg.npz"), "--output", str(tmp_path)]
    assert call("test", [*arguments, "--report", "--device", "cpu"], "test.py") == 0
    text, data = content(tmp_path / "report.html")
    assert "the first 2048 samples in two lines" in text
    (example,) = data["examples"]
    assert (example["signal"], example["height"], example["width"]) == (True, 512, 1024)
    pixels = curve(255 * signal[0, :, :, 0])
    tops = (pixels < 128).argmax(0)  # the first dark pixel of every column, of the first line
    assert (tops[:500] == 4).all()
    assert (tops[520:] == 252).all()
    assert np.array_equal(pixels[256:, 520:], pixels[:256, 520:])


def test_the_page_has_the_bits_of_the_scores(weights, photos, tmp_path):
    arguments = [str(weights), "--data", str(photos / "plain.png"), "--output", str(tmp_path)]
    assert call("test", [*arguments, "--bits", "2", "--report", "--device", "cpu"], "test.py") == 0
    scores = json.loads((tmp_path / "metrics.json").read_text())
    _, data = content(tmp_path / "report.html")
    psnr = scores["datasets"]["plain"]["psnr"]
    assert data["examples"][0]["views"][0]["psnr"] == pytest.approx(psnr, abs=1e-3)


# Seams.


def test_seams_are_the_error_beside_borders_over_the_error_inside():
    target = np.full((16, 16), 100.0)
    image = target + 1
    image[7:9] += 2  # beside the border between row 7 and 8, in all columns
    image[:, 7:9] = target[:, 7:9] + 3
    assert metrics.seams(image, target, 8) == pytest.approx(3)
    assert metrics.seams(target + 1, target, 8) == 1
    assert math.isnan(metrics.seams(target + 1, target, 16))
    assert math.isnan(metrics.seams(target, target, 8))


# Φ.


def test_phi_of_orthonormal_rows_has_singular_values_of_one():
    found = describe_operator(BlockSampling(matrices.orthonormal(20, 64), 8))
    assert found.singular == pytest.approx([1.0] * 20)
    assert 0 < found.mean_coherence < found.coherence <= 1
    assert found.spectrum.max() == 0


def test_the_coherence_of_equal_columns_is_one_and_of_orthogonal_columns_zero():
    matrix = torch.eye(64)
    assert describe_operator(BlockSampling(matrix, 8)).coherence == 0
    matrix[:, 1] = matrix[:, 0]
    assert describe_operator(BlockSampling(matrix, 8)).coherence == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "key", "count"),
    [
        ("ista_net_plus", "data_steps step", 2),
        ("fista_net", "threshold", 3),
        ("amp_net", "correction", 2),
        ("admm_csnet", "weight", 3),
        ("lorun", "iterations data_step.step", 2),
    ],
)
def test_learned_values_have_one_number_per_stage(name, key, count):
    assert len(learned_values(small_model(name))[key]) == count


# Robustness.


def test_noise_and_quantisation_have_the_stated_strength():
    y = torch.randn(1, 4, 50, 50)
    noise = noisy(y, torch.Generator().manual_seed(0), 20) - y
    assert float(noise.square().mean() / y.square().mean()) == pytest.approx(0.01, rel=0.1)
    levels = quantised(y, torch.Generator(), 3)
    assert all(len(channel.unique()) == 8 for channel in levels[0])
    span = (y.amax((2, 3)) - y.amin((2, 3))).max()
    assert float((levels - y).abs().max()) <= float(span) / 14 + 1e-6
    assert torch.equal(
        quantised(torch.ones(1, 1, 2, 2), torch.Generator(), 4), torch.ones(1, 1, 2, 2)
    )


def test_the_changed_phi_has_the_stated_distance():
    operator = BlockSampling(matrices.orthonormal(20, 64), 8)
    changed = mismatched(operator, 3).matrix - operator.matrix
    assert float((changed.norm() / operator.matrix.norm()).detach()) == pytest.approx(
        0.03, rel=1e-3
    )


def test_the_undisturbed_values_are_those_of_the_plain_network():
    model = small_model("lgm_net").eval()
    image = NamedImage("photo", smooth_image(64, 96))
    points = {(p.test, p.value): p.score for p in robustness(model, [image], Rules(), list)}
    [plain] = evaluate(model, [image], CPU)
    assert points["mismatch", 0] == pytest.approx(plain.score.psnr)
    assert points["shift", 0] == 0
    assert points["noise", 60] == pytest.approx(plain.score.psnr, abs=0.05)
    assert {t for t, _ in points} == {"noise", "bits", "mismatch", "shift", "size"}
    assert ("size", 96) not in points


def test_parts_fit_into_the_image():
    for key, _, (rows, columns) in parts((64, 96), 32):
        assert key == "shift" or (rows.start % 32, columns.start % 32) == (0, 0)
        part = np.zeros((64, 96))[rows, columns]
        assert min(part.shape) >= 32


def test_robustness_writes_curves_of_all_weights(two_weights, photos, tmp_path):
    out = tmp_path / "curves"
    arguments = [*map(str, two_weights), "--data", str(photos / "plain.png"), "--output", str(out)]
    assert call("robustness", [*arguments, "--device", "cpu"], "robustness") == 0
    rows = list(csv.DictReader((out / "robustness.csv").open()))
    assert {row["weights"] for row in rows} == {"one", "two"}
    _, data = content(out / "robustness.html")
    assert len(data["curves"]) == 5
    assert all(len(curve["series"]) == 2 for curve in data["curves"])
    assert (out / "robustness.png").stat().st_size > 10_000


# Small parts.


def test_spread_has_both_ends():
    assert spread(5, 12) == [0, 1, 2, 3, 4]
    assert spread(1000, 3) == [0, 500, 999]


def test_pictures_are_stored_without_loss():
    import base64

    pixels = smooth_image(20, 30)
    uri = data_uri(pixels)
    content = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    assert np.array_equal(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), pixels)
    assert error_map(pixels.astype(float), pixels).shape == (20, 30, 3)


def test_numbers_without_a_value_are_a_dash():
    assert [number(v, 2) for v in (None, math.inf, -1.234)] == ["–", "–", "−1.23"]
    assert number(1, 1, True) == "+1.0"
