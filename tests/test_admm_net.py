"""Deep ADMM-Net against ADMM in NumPy, and against what the authors' weights give."""

import numpy as np
import pytest
import torch
from scipy.fft import dct
from scipy.ndimage import convolve, correlate

from lgmnet import complexity
from lgmnet.models import ADMMNet, admm_net
from lgmnet.operators import BlockSampling, FourierMask, masks, matrices
from lgmnet.weights.foreign import load_foreign


@pytest.mark.parametrize(
    ("stages", "count"),
    [(5, 4_832), (7, 6_736), (13, 12_448), (14, 13_400), (15, 14_352), (17, 16_256)],
)
def test_parameter_counts(stages, count):
    assert complexity.parameters(ADMMNet(stages)) == count


@pytest.fixture
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def admm(spectrum, mask, iterations):
    """Scaled ADMM with eight cosine filters, ρ = 0.2, λ/ρ = 0.05 and steps of 1.6."""
    rows = dct(np.eye(3), axis=0, norm="ortho")
    filters = [np.outer(rows[v], rows[h]) for h in range(3) for v in range(3)][1:]

    def transfer(kernel):
        impulse = np.zeros(mask.shape)
        impulse[0, 0] = 1
        return np.fft.fft2(convolve(impulse, kernel, mode="wrap"))

    transfers = [transfer(kernel) for kernel in filters]
    divisor = mask + 0.2 * sum(np.abs(each) ** 2 for each in transfers)
    z, beta = [np.zeros((8, *mask.shape)) for _ in range(2)]

    def solve():
        total = sum(
            correlate(code, kernel, mode="wrap")
            for code, kernel in zip(z - beta, filters, strict=True)
        )
        return np.fft.ifft2((spectrum + 0.2 * np.fft.fft2(total)) / divisor).real

    for _ in range(iterations):
        image = solve()
        code = np.stack([convolve(image, kernel, mode="wrap") for kernel in filters])
        z = np.sign(code + beta) * np.maximum(np.abs(code + beta) - 0.05, 0)
        beta = beta + 1.6 * (code - z)
    return solve()


@pytest.mark.usefixtures("_double")
def test_untrained_it_is_admm_of_the_unnormalised_transform():
    """With 201 knots one of them is the threshold, so the piecewise linear function is exact."""
    mask = masks.pseudo_radial((24, 30), 7)
    image = torch.rand(24, 30)
    expected = admm(np.fft.fft2(image.numpy()) * mask.numpy(), mask.numpy(), 4)
    operator, network = FourierMask(mask), ADMMNet(4, knots=201)
    result = network(operator(image[None, None]), operator).image.detach()[0, 0]
    np.testing.assert_allclose(result, expected, atol=1e-8)
    assert np.abs(expected - image.numpy()).max() > 0.05


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_the_filtered_system_is_that_of_dense_matrices(size):
    mask = torch.rand(size) < 0.5
    mask[0, 0] = True
    operator = FourierMask(mask)
    filters, weights = torch.randn(3, 3, 3), torch.rand(3)
    basis = torch.eye(mask.numel()).view(-1, 1, *size)
    left = operator.gram(basis).flatten(1)
    for kernel, weight in zip(filters, weights, strict=True):
        rows = convolve(basis.numpy(), kernel[None, None].numpy(), mode="wrap").reshape(
            len(left), -1
        )
        left += weight * torch.from_numpy(rows @ rows.T)
    target = torch.randn(1, 1, *size)
    expected = torch.linalg.solve(left, target.flatten())
    result = operator.solve_filtered(target, filters, weights)
    torch.testing.assert_close(result.flatten(), expected, rtol=1e-9, atol=1e-9)


def test_what_nothing_sees_is_divided_by_a_small_number():
    """Φ sees the mean alone, the filter nothing."""
    mask = torch.zeros(4, 4)
    mask[0, 0] = 1
    result = FourierMask(mask).solve_filtered(
        torch.eye(4)[None, None], torch.zeros(1, 3, 3), torch.ones(1)
    )
    expected = 0.25 + (torch.eye(4) - 0.25) * 1e6
    torch.testing.assert_close(result[0, 0], expected)


def test_the_two_convolutions_are_transposes():
    filters = torch.randn(8, 3, 3, dtype=torch.float64)
    image = torch.randn(1, 1, 5, 6, dtype=torch.float64)
    features = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    left = (admm_net.convolve(image, filters) * features).sum()
    right = (image * admm_net.convolve_transposed(features, filters)).sum()
    torch.testing.assert_close(left, right)


def test_other_operators_and_bad_options_are_refused():
    block = BlockSampling(matrices.orthonormal(4, 16), 4)
    with pytest.raises(ValueError, match="given BlockSampling with 1 image channels, expected"):
        ADMMNet(1)(torch.rand(1, 4, 2, 2), block)
    both = FourierMask(torch.ones(4, 4), channels=2)
    with pytest.raises(ValueError, match="given FourierMask with 2 image channels"):
        ADMMNet(1)(torch.rand(1, 2, 4, 4), both)
    with pytest.raises(ValueError, match="filters is 9, expected 1 to 8"):
        ADMMNet(filters=9)
    with pytest.raises(ValueError, match="stages is 0, expected at least 1"):
        ADMMNet(stages=0)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("stage", "stages", "nmse", "psnr"), [(7, 9, 0.0578, 35.60), (14, 16, 0.0562, 35.83)]
)
def test_published_weights_give_what_the_authors_code_gives(reference, stage, stages, nmse, psnr):
    """They print the NMSE of the image and the PSNR of its magnitude."""
    folder = reference / "admm_net"
    stored = np.load(folder / f"deep_admm_net_stage{stage}_brain1_io.npz")
    options, state = admm_net.from_published(
        load_foreign(folder / f"deep_admm_net_stage{stage}.mat")
    )
    assert options == {"stages": stages, "filters": 8, "knots": 101}
    network = ADMMNet(**options).double()
    network.load_state_dict(state)
    operator = FourierMask(torch.from_numpy(stored["mask"]))
    image = torch.from_numpy(stored["image"])
    result = network(operator(image[None, None]), operator).image.detach()[0, 0]
    np.testing.assert_allclose(result, stored["out"], atol=1e-6)
    assert float((result - image).norm() / image.norm()) == pytest.approx(nmse, abs=5e-5)
    error = float((result.abs() - image).square().mean())
    assert -10 * np.log10(error) == pytest.approx(psnr, abs=5e-3)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weights file of Deep ADMM-Net.*first tensors: fcs\.0"):
        admm_net.from_published({"fcs.0.lambda_step": torch.zeros(1)})
    (tmp_path / "net.mat").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as layers of Deep ADMM-Net"):
        load_foreign(tmp_path / "net.mat")
