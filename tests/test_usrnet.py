"""USRNet against the authors' weights and outputs, and what it asks of an operator."""

import json

import cv2
import numpy as np
import pytest
import torch

from lgmnet import complexity
from lgmnet.models import USRNet, usrnet
from lgmnet.operators import BlockSampling, BlurDown, kernels, matrices
from lgmnet.weights.foreign import load_foreign
from lgmnet.weights.saved import Weights
from tests.test_scripts import run_main


def published(reference):
    return load_foreign(reference / "usrnet/usrnet_tiny.pth")


def golden(reference, case):
    """y, operator, the authors' output, image in [0, 1]; and a network with their weights."""
    stored = np.load(reference / "usrnet/usrnet_tiny_io.npz")
    y, kernel, expected, image = (
        torch.from_numpy(stored[f"{case}_{name}"]) for name in ("lr", "k", "out", "hr")
    )
    scale, sigma = int(stored[f"{case}_sf"]), float(stored[f"{case}_sigma"])
    options, state = usrnet.from_published(published(reference))
    network = USRNet(**options)
    network.load_state_dict(state)
    operator = BlurDown(kernel, scale, channels=3, noise_std=sigma)
    return network, y[None], operator, expected[None], image[None] / 255


def psnr(image, target):
    return -10 * np.log10(float((image.double() - target).square().mean()))


CASES = [("a", 31.51, 2e-3), ("b", 27.14, 5e-5), ("c", 25.56, 1e-5)]


@pytest.mark.shared
@pytest.mark.parametrize(("case", "expected_psnr", "rounding"), CASES)
def test_published_weights_give_what_the_authors_code_gives(
    reference, case, expected_psnr, rounding
):
    """x2, x3 and x4; without noise, and with σ of 2.55 and 7.65 grey levels.

    The authors' outputs have rounding errors of up to ``rounding``: they solve in float32 with
    weights from 4e-6 (a), 5e-5 (b) and 2e-4 (c).
    """
    network, y, operator, expected, image = golden(reference, case)
    with torch.no_grad():
        result = network(y, operator).image
    torch.testing.assert_close(result, expected, rtol=0, atol=rounding)
    assert psnr(result, image) == pytest.approx(expected_psnr, abs=0.006)
    assert psnr(expected, image) == pytest.approx(psnr(result, image), abs=0.002)


@pytest.mark.shared
@pytest.mark.parametrize("case", ["b", "c"])
def test_the_authors_order_of_operations_gives_their_rounding_errors_too(reference, case):
    """Their closed form: the spectrum of the image is folded, and Φᵀy stays a spectrum."""
    network, y, operator, expected, _ = golden(reference, case)
    s = operator.scale
    image = torch.nn.functional.interpolate(y, scale_factor=s)
    sparse = torch.zeros_like(image)
    sparse[..., ::s, ::s] = y
    height, width = operator.kernel.shape
    blur = torch.zeros_like(image[0, 0])
    blur[:height, :width] = operator.kernel
    blur = torch.fft.fft2(blur.roll((-(height // 2), -(width // 2)), (0, 1)))
    back = blur.conj() * torch.fft.fft2(sparse)

    def fold(spectrum):
        parts = spectrum.unflatten(-2, (s, -1)).unflatten(-1, (s, -1))
        return parts.mean((-2, -4))

    for weight, level in zip(*network.schedule(operator.noise_std, s), strict=True):
        target = back + torch.fft.fft2(weight * image)
        inner = fold(blur * target) / (fold(blur.abs() ** 2) + weight)
        inner = blur.conj() * inner.repeat(1, 1, s, s)
        image = torch.fft.ifft2((target - inner) / weight).real
        image = network.denoiser(torch.cat([image, level.expand_as(image[:, :1])], 1)).detach()
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


@pytest.mark.shared
def test_their_y_is_that_of_the_operator(reference):
    """Up to the rounding to 8 bits that they do before they keep every other pixel."""
    _, y, operator, _, image = golden(reference, "a")
    assert float((operator(image) - y).abs().max()) <= 1.01 / 255


@pytest.mark.shared
def test_files_that_are_not_theirs_are_refused(reference):
    state = published(reference)
    with pytest.raises(ValueError, match="its tensor p.m_extra.weight is unknown"):
        usrnet.from_published({**state, "p.m_extra.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="it has no tensor p.m_head"):
        usrnet.from_published({"fcs.0.lambda_step": torch.zeros(1)})


def test_counts():
    """The tiny network and the full one, as published."""
    assert complexity.parameters(USRNet()) == 590_332
    with torch.device("meta"):
        full = USRNet(stages=8, widths=(64, 128, 256, 512), hidden=64)
    assert complexity.parameters(full) == 17_016_016


def small(channels=1):
    return USRNet(channels, stages=2, widths=(4, 8), blocks=1, hidden=4)


def test_sides_of_any_length_are_completed_and_cropped():
    """The last row and column are repeated."""
    network = small()
    image = torch.rand(1, 2, 7, 9)
    assert network.denoiser(image).shape == (1, 1, 7, 9)
    wide = torch.cat([image, image[:, :, -1:]], 2)
    wide = torch.cat([wide, wide[..., -1:]], 3)
    torch.testing.assert_close(network.denoiser(image), network.denoiser(wide)[..., :7, :9])


def test_scale_kernel_and_noise_level_change_the_result():
    network = small()
    two = kernels.gaussians()[:2]
    y = torch.rand(1, 1, 16, 16)
    results = [
        network(y, BlurDown(two[k], 2, noise_std=sigma)).image
        for k, sigma in ((0, 0.0), (1, 0.0), (0, 0.1))
    ]
    assert all(not torch.allclose(results[0], other, atol=1e-5) for other in results[1:])
    with torch.no_grad():
        differ = network.schedule(0.0, 2)[0] - network.schedule(0.0, 3)[0]
    assert float(differ.abs().max()) > 1e-3


def test_other_operators_and_bad_options_are_refused():
    with pytest.raises(ValueError, match="which BlockSampling does not have; choose sampling.op"):
        small().check_operator(BlockSampling(matrices.xavier(3, 16), 4))
    with pytest.raises(ValueError, match=r"widths is \[4\], expected at least two"):
        USRNet(widths=(4,))
    with pytest.raises(ValueError, match=r"widths\[1\] is 0"):
        USRNet(widths=(4, 0))


@pytest.mark.shared
def test_the_commands_import_and_score(reference, tmp_path, monkeypatch):
    """K8 of x3: what the network gives from Python, with the border left out."""
    image = np.load(reference / "usrnet/usrnet_tiny_io.npz")["b_hr"]
    cv2.imwrite(str(tmp_path / "image.png"), image.transpose(1, 2, 0)[..., ::-1])
    held = reference.parent / "kernels/kernels_12.mat"
    arguments = ["usrnet", reference / "usrnet/usrnet_tiny.pth", "--scale", "3"]
    arguments += ["--kernels", held, "--output", tmp_path / "w"]
    assert run_main("scripts/import_weights.py", arguments, monkeypatch) == 0
    weights = Weights(tmp_path / "w/model.safetensors")
    assert len(weights.config.sampling.conditions) == 12
    arguments = [tmp_path / "w", "--at", "x3_k8", "--data", tmp_path / "image.png"]
    arguments += ["--noise-std", "0", "--output", tmp_path / "r"]
    assert run_main("test.py", arguments, monkeypatch) == 0
    [found] = (tmp_path / "r").rglob("metrics.json")
    [scores] = json.loads(found.read_text())["datasets"].values()
    network = weights.load(None).network
    operator = BlurDown(kernels.load_kernels(held)[7], 3, channels=3)
    target = torch.from_numpy(image)[None].float() / 255
    with torch.no_grad():
        result = network(operator(target), operator).image
    inside = (..., slice(9, -9), slice(9, -9))
    rounded = (255 * result).round().clamp(0, 255) / 255
    assert scores["psnr"] == pytest.approx(psnr(rounded[inside], target[inside]), abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["usrnet", "x.pth"], "serve several scales; give one with --scale 3"),
        (["usrnet", "x.pth", "--scale", "3", "--mask", "m.mat"], "are not for usrnet"),
        (["lgm_net", "x.pkl", "--scale", "3"], "--scale and --kernels are for usrnet, not for lgm"),
        (["usrnet", "x.pth", "--scale", "3"], "no file x.pth"),
    ],
)
def test_scales_and_kernels_belong_to_usrnet(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [*arguments, "--output", tmp_path / "w"]
    assert run_main("scripts/import_weights.py", command, monkeypatch) == 1
    assert message in capsys.readouterr().err
