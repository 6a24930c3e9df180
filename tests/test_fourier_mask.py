"""Fourier measurements against dense matrices, published numbers and other people's files."""

import numpy as np
import pytest
import torch
from scipy.linalg import dft

from lgmnet import complexity
from lgmnet.metrics import PROTOCOLS, score, summarise
from lgmnet.operators import FourierMask, masks
from tests.conftest import reference_data

SIZES = [(4, 6), (5, 3), (4, 5), (1, 4)]


def irregular_mask(size):
    """Some frequencies are measured with their opposite, some without."""
    mask = torch.rand(size, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[0, 0] = True
    return mask


def dense(mask, channels):
    """Φ ``(2 H W, channels H W)`` with SciPy's matrix of the transform, real parts first."""
    height, width = mask.shape
    fourier = np.kron(dft(height, "sqrtn"), dft(width, "sqrtn"))
    fourier = fourier * mask.numpy().reshape(-1, 1)
    rows = np.block([[fourier.real, -fourier.imag], [fourier.imag, fourier.real]])
    return torch.from_numpy(rows[:, : channels * height * width])


@pytest.fixture(params=[(size, channels) for size in SIZES for channels in (1, 2)], ids=str)
def pair(request):
    size, channels = request.param
    mask = irregular_mask(size)
    return FourierMask(mask, channels), dense(mask, channels)


def random_image(operator):
    return torch.randn(1, operator.channels, *operator.size, dtype=torch.float64)


def same(result, expected):
    torch.testing.assert_close(result.flatten(), expected.flatten(), rtol=1e-10, atol=1e-11)


def test_forward_and_adjoint_are_the_dense_matrix_and_its_transpose(pair):
    operator, matrix = pair
    image = random_image(operator)
    measurement = torch.randn(1, 2, *operator.size, dtype=torch.float64)  # also off the mask
    same(operator(image), matrix @ image.flatten())
    same(operator.adjoint(measurement), matrix.T @ measurement.flatten())
    same(operator.gram(image), matrix.T @ (matrix @ image.flatten()))


@pytest.mark.parametrize("weight", [1e-3, 1.0, 30.0])
def test_solve_is_that_of_the_dense_matrix(pair, weight):
    operator, matrix = pair
    image, other = random_image(operator), random_image(operator)
    left = matrix.T @ matrix + weight * torch.eye(matrix.shape[1], dtype=torch.float64)
    expected = torch.linalg.solve(left, (other + weight * image).flatten())
    same(operator.solve(image, weight, other), expected)


def test_projection_is_the_pseudo_inverse_also_of_noisy_measurements(pair):
    operator, matrix = pair
    image = random_image(operator)
    noisy = torch.randn(1, 2, *operator.size, dtype=torch.float64)
    rest = noisy.flatten() - matrix @ image.flatten()
    projected = operator.project(image, noisy)
    same(projected, image.flatten() + torch.linalg.pinv(matrix, rtol=1e-9) @ rest)
    same(operator.project(projected, noisy), projected)


def test_eigenvalues_and_lipschitz_are_those_of_the_dense_matrix(pair):
    operator, matrix = pair
    expected = torch.linalg.eigvalsh(matrix.T @ matrix)
    values = operator.eigenvalues().double().flatten()
    values = values.repeat(operator.channels).sort().values
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    assert operator.lipschitz() == pytest.approx(float(expected[-1]))


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_not_measured_is_zero_and_y_is_contiguous(channels):
    operator = FourierMask(irregular_mask((6, 8)), channels)
    y = operator(torch.randn(2, channels, 6, 8))
    assert torch.equal(y != 0, operator.support.expand_as(y) & (y != 0))
    assert y.is_contiguous()
    assert operator.adjoint(y).is_contiguous()


def test_the_whole_spectrum_keeps_the_norm_and_gives_the_image_back():
    image = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    operator = FourierMask(torch.ones(6, 5), channels=2)
    y = operator(image)
    torch.testing.assert_close(y.norm(), image.norm(), rtol=1e-12, atol=0)
    torch.testing.assert_close(operator.adjoint(y), image, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_a_centred_mask_is_turned_round(size):
    mask = irregular_mask(size)
    mask[1, 0], mask[-1, 0] = True, False  # lost if the mask is rolled the wrong way
    centred = torch.fft.fftshift(mask)
    assert centred[size[0] // 2, size[1] // 2]
    assert torch.equal(FourierMask(centred, centred=True).mask, mask)


def test_operators_that_measure_alike_have_one_fingerprint():
    mask = irregular_mask((4, 6))
    known = FourierMask(mask).fingerprint()
    assert FourierMask(mask.double()).fingerprint() == known
    other = mask.clone()
    other[1, 2] = ~other[1, 2]
    different = [FourierMask(other), FourierMask(mask, 2), FourierMask(mask.view(6, 4))]
    assert known not in [operator.fingerprint() for operator in different]


def test_the_mask_is_saved_and_says_which_sizes_fit():
    operator = FourierMask(irregular_mask((4, 6)), channels=2)
    copy = FourierMask(torch.ones(4, 6), channels=2)
    copy.load_state_dict(operator.state_dict())
    assert copy.fingerprint() == operator.fingerprint()
    assert not list(operator.parameters())
    assert operator.size == (4, 6)
    assert "mask (4, 6): (batch, 2, 4, 6) -> (batch, 2, 4, 6)" in repr(operator)


@pytest.mark.parametrize(
    ("call", "shape", "message"),
    [
        (
            "forward",
            (1, 1, 6, 4),
            r"the image has 6 x 4 pixels .* FourierMask measures images of 4 x 6",
        ),
        ("forward", (1, 2, 4, 6), r"shape \(1, 2, 4, 6\), expected \(batch, 1, H, W\)"),
        ("forward", (4, 6), r"the image has shape \(4, 6\)"),
        ("adjoint", (1, 1, 4, 6), r"the measurement has shape .* expected \(batch, 2, 4, 6\)"),
        ("gram", (1, 3, 4, 8), r"the image has 4 x 8 pixels"),
    ],
)
def test_what_does_not_fit_is_refused(call, shape, message):
    with pytest.raises(ValueError, match=message):
        getattr(FourierMask(irregular_mask((4, 6))), call)(torch.rand(shape))


def test_wrong_arguments_are_refused():
    mask = irregular_mask((4, 6))
    with pytest.raises(ValueError, match="channels is 3, expected 1"):
        FourierMask(mask, channels=3)
    with pytest.raises(ValueError, match="weight of a quadratic step is 0, expected > 0"):
        FourierMask(mask).solve(torch.rand(1, 1, 4, 6), 0, torch.rand(1, 1, 4, 6))


def psnr(image, reference):
    return float(-10 * torch.log10((image - reference).square().mean()))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("percent", "published"), [(10, 26.81), (20, 30.41), (30, 33.01), (40, 35.14), (50, 37.07)]
)
def test_zero_filling_of_the_brain_images_has_the_psnr_of_the_ista_net_code(
    brains, percent, published
):
    """The numbers of ISTA-Net's MRI test: clipped to [0, 1], PSNR per image, then the mean."""
    assert len(brains) == 50
    mask = masks.load_mask(reference_data() / f"mri/masks/mask_{percent}.mat", size=(256, 256))
    operator = FourierMask(mask)
    filled = operator.adjoint(operator(brains))
    values = [psnr(one, image) for one, image in zip(filled.clamp(0, 1), brains, strict=True)]
    assert sum(values) / 50 == pytest.approx(published, abs=0.005)
    pairs = zip(255 * filled[:, 0].numpy(), 255 * brains[:, 0].numpy(), strict=True)
    scores = [score(one, image, PROTOCOLS["mri"]) for one, image in pairs]
    assert summarise(scores, PROTOCOLS["mri"]).psnr == pytest.approx(published, abs=0.005)


@pytest.mark.shared
def test_zero_filling_of_a_complex_image_has_the_psnr_of_the_admm_csnet_code():
    """The authors score magnitudes."""
    stored = np.load(reference_data() / "reference/admm_csnet/admm_csnet_0.3_io.npz")
    image = torch.view_as_real(torch.from_numpy(stored["image"])).permute(2, 0, 1)[None]
    operator = FourierMask(torch.from_numpy(stored["mask"]), channels=2)
    filled = operator.adjoint(operator(image))
    value = psnr(filled.norm(dim=1), image.norm(dim=1))
    assert value == pytest.approx(float(stored["psnr_zero_filled"]), abs=1e-4)
    parts = [255 * tensor[0].permute(1, 2, 0).numpy() for tensor in (filled, image)]
    assert score(*parts, PROTOCOLS["mri"]).psnr == pytest.approx(value, abs=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize(("stages", "psnr", "nmse"), [(7, 35.60, 0.0578), (14, 35.83, 0.0562)])
def test_the_protocol_gives_the_numbers_that_deep_admm_net_prints(stages, psnr, nmse):
    path = f"reference/admm_net/deep_admm_net_stage{stages}_brain1_io.npz"
    stored = np.load(reference_data() / path)
    parts = [np.dstack([255 * stored[name], np.zeros((256, 256))]) for name in ("out", "image")]
    scored = score(*parts, PROTOCOLS["mri"])
    assert scored.psnr == pytest.approx(psnr, abs=0.005)
    assert scored.nmse == pytest.approx(nmse, abs=5e-5)


@pytest.mark.shared
def test_the_mask_of_deep_admm_net_is_that_of_the_file():
    stored = np.load(reference_data() / "reference/admm_net/deep_admm_net_stage7_brain1_io.npz")
    mask = masks.load_mask(reference_data() / "mri/masks/mask_20.mat")
    assert torch.equal(mask, torch.from_numpy(stored["mask"]).bool())


def test_the_flops_of_transforms_are_counted():
    """By hand: 5 N log2 N each, half of it for a real image."""
    side = 2 * torch.rand(1, 1, 8, 16), torch.rand(1, 2, 8, 16)
    whole = 5 * 128 * 7
    for image, each in zip(side, (whole // 2, whole), strict=True):
        operator = FourierMask(torch.ones(8, 16), channels=image.shape[1])
        with complexity.counter() as counted:
            operator.gram(image)
        assert counted.get_total_flops() == 2 * each
