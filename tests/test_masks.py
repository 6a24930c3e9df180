import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy.io import savemat

from lgmnet.arrays import HDF5, read_arrays
from lgmnet.operators import masks, matrices

SIZE = (64, 48)
DRAWN = {
    "pseudo_radial": lambda seed, size=SIZE: masks.pseudo_radial(size, 9, seed=seed),
    "cartesian": lambda seed, size=SIZE: masks.cartesian(size, 0.3, 0.1, seed=seed),
    "variable_density": lambda seed, size=SIZE: masks.variable_density(size, 0.3, seed=seed),
}


def opposite(mask):
    """The mask at −k, by indices."""
    rows, columns = (-torch.arange(side) % side for side in mask.shape)
    return mask[rows][:, columns]


@pytest.mark.parametrize("size", [SIZE, (33, 20), (7, 7), (1, 9)])
@pytest.mark.parametrize("name", DRAWN)
def test_a_drawn_mask_is_boolean_and_has_the_zero_frequency(name, size):
    mask = DRAWN[name](5, size)
    assert mask.shape == size
    assert mask.dtype == torch.bool
    assert mask[0, 0]
    assert torch.equal(masks.checked(mask), mask)


@pytest.mark.parametrize("name", DRAWN)
def test_the_seed_alone_decides(name):
    first = DRAWN[name](1)
    torch.manual_seed(99)
    assert torch.equal(DRAWN[name](1), first)
    assert not torch.equal(DRAWN[name](2), first)


@pytest.mark.parametrize("size", [(64, 64), (65, 65), (64, 48), (33, 20)])
def test_pseudo_radial_masks_are_symmetric(size):
    mask = masks.pseudo_radial(size, 7, seed=4)
    assert torch.equal(mask, opposite(mask))


@pytest.mark.parametrize("seed", range(5))
def test_one_line_measures_one_frequency_per_row_or_column(seed):
    mask = masks.pseudo_radial((65, 65), 1, seed)
    assert int(mask.sum()) == 65
    assert mask.any(dim=0).all() or mask.any(dim=1).all()


@pytest.mark.parametrize("lines", [4, 12, 24])
def test_the_ratio_of_few_lines_is_close_to_lines_by_side(lines):
    ratio = masks.sampling_ratio(masks.pseudo_radial((256, 256), lines, seed=1))
    # A line has up to 257 frequencies: from -128 to 128.
    assert 0.85 * lines / 256 < ratio <= lines * 257 / 256**2


def test_lines_have_equal_angles():
    """Near the border of a square, two lines at a right angle are the same after a turn by 90°."""
    mask = torch.fft.fftshift(masks.pseudo_radial((65, 65), 2, seed=3))
    assert torch.equal(mask, mask.rot90())
    assert not torch.equal(mask, mask.flip(0))


@pytest.mark.parametrize(("size", "rows"), [((64, 48), 19), ((33, 20), 10)])
def test_cartesian_masks_have_whole_rows_and_the_ratio_stated(size, rows):
    mask = masks.cartesian(size, 0.3, 0.1, seed=2)
    assert torch.equal(mask.any(dim=1), mask.all(dim=1))
    assert int(mask[:, 0].sum()) == rows
    assert masks.sampling_ratio(mask) == pytest.approx(rows / size[0])
    centre = round(0.1 * size[0])
    shifted = torch.fft.fftshift(mask[:, 0])
    begin = size[0] // 2 - centre // 2
    assert shifted[begin : begin + centre].all()


def test_cartesian_rows_outside_the_centre_are_equally_likely():
    drawn = torch.stack([masks.cartesian((16, 1), 0.5, 0.25, seed)[:, 0] for seed in range(600)])
    frequency = drawn.double().mean(dim=0)
    centre = torch.zeros(16, dtype=torch.bool)
    centre[[-2, -1, 0, 1]] = True
    assert (frequency[centre] == 1).all()
    assert (frequency[~centre] - 4 / 12).abs().max() < 0.08  # four standard deviations


def test_variable_density_has_the_ratio_stated_and_is_dense_in_the_centre():
    mask = masks.variable_density((64, 48), 0.3, seed=2)
    assert int(mask.sum()) == round(0.3 * 64 * 48)
    shifted = torch.fft.fftshift(mask).double()
    inner, outer = shifted[24:40, 18:30].mean(), shifted[:8].mean()
    assert inner > 0.6
    assert outer < 0.15
    flat = torch.fft.fftshift(masks.variable_density((64, 48), 0.3, power=0.0)).double()
    assert abs(flat[24:40, 18:30].mean() - 0.3) < 0.15
    assert masks.variable_density((8, 6), 1.0).all()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: masks.pseudo_radial(SIZE, 0), "lines is 0, expected at least 1"),
        (lambda: masks.cartesian(SIZE, 0.0), "the fraction is 0.0, expected 0 < fraction <= 1"),
        (lambda: masks.cartesian(SIZE, 0.1, 0.2), "centre fraction is 0.2, .* fraction 0.1"),
        (lambda: masks.variable_density(SIZE, 1.5), "the fraction is 1.5"),
    ],
)
def test_impossible_draws_are_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def save(path, mask, name="mask"):
    if path.suffix == ".npy":
        np.save(path, mask)
    elif path.suffix == ".npz":
        np.savez(path, **{name: mask, "image": np.zeros(2)})
    elif path.suffix == ".mat":
        savemat(path, {name: mask})
    else:
        save_file({name: mask}, path)


@pytest.mark.parametrize("kind", [np.uint8, np.float64, np.bool_])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".safetensors"])
def test_a_mask_survives_every_file_format(tmp_path, suffix, kind):
    mask = DRAWN["variable_density"](1)
    path = tmp_path / f"mask{suffix}"
    save(path, mask.numpy().astype(kind), "mask_matrix")
    assert torch.equal(masks.load_mask(path), mask)
    save(path, np.fft.fftshift(mask.numpy()).astype(kind))
    assert torch.equal(masks.load_mask(path, centred=True, size=SIZE), mask)


def write_matlab73(path, **arrays):
    """As MATLAB does: 512 bytes of text, then HDF5 with the columns first."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_group("#refs#")
        for name, array in arrays.items():
            file[name] = array.T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def test_matlab73_files_are_read(tmp_path):
    mask = DRAWN["variable_density"](1)
    write_matlab73(tmp_path / "mask.mat", mask=mask.numpy().astype(np.float64))
    assert torch.equal(masks.load_mask(tmp_path / "mask.mat"), mask)
    matrix = np.random.default_rng(0).normal(size=(3, 16))
    write_matlab73(tmp_path / "phi.mat", phi=matrix)
    loaded = matrices.load_matrix(tmp_path / "phi.mat")
    np.testing.assert_array_equal(loaded.numpy(), matrix.astype(np.float32))


@pytest.mark.shared
def test_a_file_that_matlab_wrote_is_read():
    pytest.importorskip("h5py")
    from tests.conftest import reference_data

    arrays = read_arrays(reference_data() / "reference/admm_net/deep_admm_net_stage7.mat")
    assert all(array.dtype.kind in "buif" for array in arrays.values())


def test_without_h5py_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)  # an import of it fails
    path = tmp_path / "mask.mat"
    for before in (b"", b"MATLAB 7.3 MAT-file".ljust(512)):
        path.write_bytes(before + HDF5)
        with pytest.raises(ValueError, match=r"mask.mat .* needs h5py: pip .*'.\[matlab\]'"):
            masks.load_mask(path)


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (np.ones(4), {}, r"shape \(4,\), expected \(H, W\)"),
        (np.ones((1, 4, 4)), {}, r"shape \(1, 4, 4\), expected \(H, W\)"),
        (np.ones((0, 4)), {}, r"shape \(0, 4\)"),
        (np.ones((4, 6)), {"size": (6, 4)}, r"shape \(4, 6\), expected \(6, 4\)"),
        (np.full((4, 4), 255, np.uint8), {}, "the value 255.0, expected only 0 and 1"),
        (np.full((4, 4), np.nan), {}, "the value nan"),
        (np.eye(4) - np.eye(4), {}, r"no zero frequency, .* at \[0, 0\].* pass centred=True"),
        (np.diag([1, 0, 0, 0]), {"centred": True}, r"\[H // 2, W // 2\].* leave out centred=True"),
        (np.ones((4, 4)) * 1j, {}, "type complex128, expected numbers"),
    ],
)
def test_unusable_masks_are_refused(tmp_path, mask, options, message):
    path = tmp_path / "mask.npy"
    np.save(path, mask)
    with pytest.raises(ValueError, match=message) as caught:
        masks.load_mask(path, **options)
    assert str(path) in str(caught.value)


def test_unusable_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no mask at"):
        masks.load_mask(tmp_path / "none.npy")
    np.savez(tmp_path / "two.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
    with pytest.raises(ValueError, match="two.npz contains a, b; name the mask 'mask'"):
        masks.load_mask(tmp_path / "two.npz")
    (tmp_path / "mask.mat").write_bytes(b"no array")
    with pytest.raises(ValueError, match="mask.mat cannot be read as a mask"):
        masks.load_mask(tmp_path / "mask.mat")
    (tmp_path / "mask.png").write_bytes(b"")
    with pytest.raises(ValueError, match="is not a .npy, .npz, .mat or .safetensors file"):
        masks.load_mask(tmp_path / "mask.png")


@pytest.mark.shared
def test_the_masks_of_ista_net_have_the_fractions_published():
    from tests.conftest import reference_data

    fractions = {10: 0.102, 20: 0.202, 30: 0.302, 40: 0.401, 50: 0.500}
    for percent, fraction in fractions.items():
        mask = masks.load_mask(reference_data() / f"mri/masks/mask_{percent}.mat")
        assert masks.sampling_ratio(mask) == pytest.approx(fraction, abs=5e-4)
        assert torch.equal(mask, opposite(mask))
