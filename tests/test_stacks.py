"""Images in array files: which images there are, their values, and what is refused."""

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from lgmnet.data import stacks
from lgmnet.data.datasets import open_test_set, open_training_images, split
from lgmnet.data.images import ImageError, inspect, list_images, read_pixels
from tests.conftest import reference_data


def values(dtype, shape, seed=0):
    """Over the whole range of the type."""
    top = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    random = np.random.default_rng(seed)
    if dtype.startswith("complex"):
        return (0.7 * random.random(shape) - 0.7j * random.random(shape)).astype(dtype)
    return (random.random(shape) * top).astype(dtype)


def write(path, **arrays):
    if path.suffix == ".npy":
        (array,) = arrays.values()
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    elif path.name.endswith("73.mat"):
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, array in arrays.items():
                if np.iscomplexobj(array):
                    parts = np.empty(array.shape, [("real", "<f8"), ("imag", "<f8")])
                    parts["real"], parts["imag"] = array.real, array.imag
                    array = parts
                file[name] = np.transpose(array)
    else:
        savemat(path, arrays)
    return path


NAMES = ["x.npy", "x.npz", "x.mat", "x73.mat"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 28])
def test_one_image_of_every_type_and_channel_count(tmp_path, name, dtype, channels):
    shape = (20, 30) if channels == 1 else (20, 30, channels)
    array = values(dtype, shape)
    path = write(tmp_path / name, image=array)

    assert list_images(path) == [path]
    kind = "float32" if dtype == "float64" else dtype
    assert inspect(path) == (20, 30, channels, np.dtype(kind))
    expected = array[:, :, ::-1] if channels == 3 else array
    pixels = read_pixels(path)
    assert pixels.dtype == kind
    np.testing.assert_array_equal(pixels, expected.astype(kind))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 20, 70), (3, 20, 30, 1), (3, 20, 30, 3), (3, 20, 30, 28)])
def test_several_images_have_names_of_their_own(tmp_path, name, shape):
    array = values("uint16", shape)
    path = write(tmp_path / name, images=array)

    listed = list_images(path)

    assert [p.name for p in listed] == [f"{path.stem}_00{k}" for k in range(3)]
    for image, member in zip(array, listed, strict=True):
        expected = image[:, :, ::-1] if shape[3:] == (3,) else image
        np.testing.assert_array_equal(read_pixels(member), expected.squeeze())
    assert open_test_set(str(path), []).names == [p.name for p in listed]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(20, 70), (3, 20, 70)])
def test_a_complex_array_gives_two_channels(tmp_path, name, shape):
    array = values("complex64", shape)
    path = write(tmp_path / name, image=array)

    first = array[0] if len(shape) == 3 else array
    pixels = read_pixels(list_images(path)[0])
    assert inspect(list_images(path)[0]) == (20, 70, 2, np.float32)
    np.testing.assert_array_equal(pixels, np.stack([first.real, first.imag], axis=2))


@pytest.mark.parametrize("name", ["x.npz", "x.mat", "x73.mat"])
@pytest.mark.parametrize("scale", [np.uint16(9000), np.array([9000, 8000, 9999], np.uint16)])
def test_a_scale_is_what_stands_for_white(tmp_path, name, scale):
    counts = np.random.default_rng(0).integers(0, 8000, (3, 20, 70), dtype=np.uint16)
    path = write(tmp_path / name, counts=counts, scale=scale, bands=np.arange(4))

    for k, member in enumerate(list_images(path)):
        number = np.broadcast_to(scale, 3)[k]
        expected = (counts[k].astype(np.float64) / number).astype(np.float32)
        np.testing.assert_array_equal(read_pixels(member), expected)


def test_lists_of_names_hold_images_of_a_stack_out(tmp_path):
    write(tmp_path / "a.v1.npz", x=values("uint8", (12, 40, 70)))
    images, _ = open_training_images([str(tmp_path)], [], 32)

    kept, held = split(images, ["a_v1_007", "a_v1_011"])

    assert (len(kept.names), held.names) == (10, ["a_v1_007", "a_v1_011"])
    np.testing.assert_array_equal(held.read(0), images.read(7))


def test_a_copy_in_another_format_is_not_trained_on(tmp_path):
    array = values("float32", (4, 40, 70))
    write(tmp_path / "all.npz", x=array)
    write(tmp_path / "held.npy", x=array[2])
    reserved = list_images(tmp_path / "held.npy")

    images, rejected = open_training_images([str(tmp_path / "all.npz")], [], 32, reserved)

    assert images.names == ["all_000", "all_001", "all_003"]
    assert "copy of one" in rejected[str(tmp_path / "all.npz/all_002")]


def test_array_files_count_only_where_no_image_file_is(tmp_path, image_folder):
    (tmp_path / "arrays").mkdir()
    write(tmp_path / "arrays/a.npy", x=values("uint8", (40, 70)))
    assert [p.name for p in list_images(tmp_path / "arrays")] == ["a.npy"]
    write(image_folder / "truth.mat", x=values("uint8", (40, 70)))
    assert all(p.suffix == ".png" for p in list_images(image_folder))


def test_the_next_image_of_a_file_does_not_read_it_again(tmp_path, monkeypatch):
    path = write(tmp_path / "x.npz", x=values("uint8", (5, 40, 70)))
    reads = []
    original = stacks.read_arrays
    monkeypatch.setattr(stacks, "read_arrays", lambda *a, **k: reads.append(a) or original(*a, **k))

    for member in list_images(path):
        read_pixels(member)
    assert len(reads) == 1
    write(path, x=values("uint8", (6, 40, 70), seed=1))
    assert len(list_images(path)) == 6


BAD = {
    "no array": (
        {"a": np.array("text")},
        "contains no array of numbers; name the images one of image",
    ),
    "several": (
        {"a": np.ones((9, 9)), "b": np.ones((9, 9))},
        r"contains a, b; name the images one of",
    ),
    "one axis": ({"x": np.ones(9)}, r"shape \(9,\), expected \(H, W\), \(H, W, C\)"),
    "five axes": ({"x": np.ones((2, 2, 2, 2, 2))}, r"shape \(2, 2, 2, 2, 2\), expected"),
    "channels first": ({"x": np.ones((2, 3, 9, 80))}, r"at most 64 channels C; permute its axes"),
    "complex bands": ({"x": np.ones((9, 9, 3), complex)}, "because it is complex"),
    "empty": ({"x": np.ones((0, 9))}, r"shape \(0, 9\)"),
    "integers": ({"x": np.ones((9, 9), np.int32)}, r"integers \(int32\).*as 'scale'"),
    "large": ({"x": np.full((9, 9), 3.5)}, "values up to 3.5, expected -1 to 1.*as 'scale'"),
    "magnitude": ({"x": np.full((9, 9), 0.9 + 0.9j)}, "values up to 1.27"),
    "nan": ({"x": np.full((9, 9), np.nan)}, "contains NaN or infinite values"),
    "small scale": ({"x": np.full((9, 9), 3), "scale": 2}, "values up to 1.5"),
    "no scale": ({"x": np.ones((9, 9)), "scale": 0.0}, "is not positive"),
    "scales": ({"x": np.ones((9, 9)), "scale": np.ones(2)}, "one for each of the 1 images"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD)
def test_what_is_no_image_is_refused_with_a_remedy(tmp_path, arrays, message):
    path = write(tmp_path / "x.npz", **arrays)

    with pytest.raises(ImageError, match=message):
        read_pixels(list_images(path)[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_or_one_without_that_image_is_refused(tmp_path, name):
    path = write(tmp_path / name, image=values("uint8", (3, 40, 70)))
    for missing in ("other_000", f"{path.stem}_003", f"{path.stem}_01", f"{path.stem}_²"):
        with pytest.raises(ImageError, match=f"not an image; .* has 3 images, {path.stem}_000 to"):
            read_pixels(path / missing)
    path.write_bytes(path.read_bytes()[:200])
    for read in (inspect, read_pixels):
        with pytest.raises(ImageError, match="cannot be read as an array"):
            read(list_images(path)[0])


@pytest.mark.shared
def test_the_shared_stacks_are_read():
    chest = list_images(reference_data() / "mri/chest/chest_train.npz")
    with np.load(chest[0].parent) as file:
        expected = file["counts"][17] / file["scale"][17]
    assert len(chest) == 100
    np.testing.assert_array_equal(read_pixels(chest[17]), expected.astype(np.float32))
    cube = reference_data() / "cassi/indian_pines_28bands.npz"
    assert inspect(cube) == (145, 145, 28, np.float32)
    assert 0.9 < read_pixels(cube).max() <= 1


@pytest.mark.parametrize(
    ("name", "white"), [("img", None), ("img_expand", 65536), ("HSI", None), ("cube", 4000)]
)
def test_spectral_cubes_in_the_layouts_of_kaist_and_cave(tmp_path, name, white):
    """A cube beside other arrays. CAVE's ``img_expand`` is on 0..65536, also as floats."""
    unit = values("float64", (20, 30, 28))
    cube = unit if white is None else np.rint(unit * white)
    scale = {"scale": white} if name == "cube" else {}
    path = write(tmp_path / "scene01.mat", **{name: cube, "wavelength": np.arange(28)}, **scale)
    pixels = read_pixels(path)
    assert pixels.shape == (20, 30, 28)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, unit, atol=1e-7 if white is None else 0.6 / white)
