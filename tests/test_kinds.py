"""Images of every type and channel count, from the file through all sources of crops to a score."""

import json
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch

from lgmnet.config import ConfigError, DataConfig
from lgmnet.data import color, values
from lgmnet.data.crops import (
    CropRule,
    DeviceCrops,
    Plan,
    TrainingCrops,
    loaded_batches,
    sample_blocks,
)
from lgmnet.data.datasets import NamedImage, open_training_images
from lgmnet.data.images import ImageError, list_images, read_pixels, write_reconstruction
from lgmnet.data.packed import PackedImages, pack
from lgmnet.data.transforms import crop_to_blocks, dihedral
from lgmnet.evaluation.rebuild import Rules, evaluate, validate
from lgmnet.metrics import PROTOCOLS
from lgmnet.models import Reconstruction, SensingModel, UnfoldingNetwork
from lgmnet.operators import BlockSampling, FourierMask, LinearOperator
from lgmnet.runtime import Runtime
from lgmnet.training.images import check_fit
from lgmnet.training.loop import train
from lgmnet.weights.saved import Weights
from tests.conftest import smooth_image, tiny_config

CPU = Runtime(torch.device("cpu"))
RULE = CropRule(size=24, seed=7, batch=4)
WHITE = {"uint8": 255, "uint16": 65535, "float32": 1}

# Format, type, channels, policy. Colour is written as RGB.
KINDS = [
    *[("png", dtype, n, policy) for dtype in ("uint8", "uint16") for n, policy in
      ((1, "luma"), (3, "luma"), (3, "color"), (1, "color"), (3, "bands"))],
    *[("tif", dtype, n, policy) for dtype in ("uint16", "float32") for n, policy in
      ((1, "luma"), (3, "luma"), (3, "color"))],
    *[(ending, dtype, n, policy) for ending in ("npy", "npz", "mat") for dtype in WHITE
      for n, policy in ((1, "luma"), (2, "bands"), (3, "color"), (28, "bands"))],
]  # fmt: skip


class Everything(LinearOperator):
    """Measures every number of an image."""

    multiple = 1

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def measurement_shape(self, height, width):
        return self.channels, height, width

    def forward(self, image):
        return image

    def adjoint(self, measurement):
        return measurement

    def solve(self, image, weight, back_projection):
        return (back_projection + weight * image) / (1 + weight)

    def project(self, image, measurement):
        return measurement

    def fingerprint(self):
        return "everything"

    def lipschitz(self):
        return 1.0


class Transpose(UnfoldingNetwork):
    """Returns Φᵀy."""

    def forward(self, measurement, operator):
        return Reconstruction(operator.adjoint(measurement))

    def stages(self):
        return []


def camera(operator):
    return SensingModel(operator, Transpose()).eval()


def run(model, pixels, protocol="paper", **rules):
    images = [NamedImage("name", pixels)]
    return next(iter(evaluate(model, images, CPU, Rules(PROTOCOLS[protocol], **rules))))


def stored(dtype, shape, seed):
    random = np.random.default_rng(seed).random(shape)
    return (random * WHITE[dtype]).astype(dtype)


def write(path: Path, array):
    """Channels in RGB order, whatever the format."""
    if path.suffix == ".png":
        cv2.imwrite(str(path), array[:, :, ::-1] if array.ndim == 3 else array)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    elif path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, image=array)
    else:
        from scipy.io import savemat

        savemat(path, {"image": array})


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def kind(request, tmp_path):
    """A folder of three images, what they hold, and the policy."""
    ending, dtype, channels, policy = request.param
    arrays = []
    (tmp_path / "images").mkdir()
    for k, size in enumerate([(30, 41), (26, 25), (40, 24)]):
        shape = size if channels == 1 else (*size, channels)
        arrays.append(stored(dtype, shape, k))
        write(tmp_path / "images" / f"{k}.{ending}", arrays[-1])
    return tmp_path / "images", arrays, policy


def measured(array, policy):
    """``(C, H, W)`` of an RGB array, written another way than in the package."""
    if policy == "luma" and array.ndim == 3:
        turned = np.ascontiguousarray(array[:, :, ::-1])
        array = cv2.cvtColor(turned, cv2.COLOR_BGR2YCrCb)[:, :, 0]
    image = np.atleast_3d(array).transpose(2, 0, 1)
    return np.repeat(image, 3, axis=0) if policy == "color" and len(image) == 1 else image


def on_unit_scale(array):
    return array.astype(np.float32) / np.float32(WHITE[str(array.dtype)])


def test_every_source_gives_the_same_crops_of_what_the_files_hold(kind, tmp_path):
    folder, arrays, policy = kind
    store = tmp_path / "x.packed"
    pack(folder, store, policy)
    plan = Plan(0, 4)
    files, _ = open_training_images([str(folder)], [], 24, color=policy)
    packed, _ = open_training_images([str(store)], [], 24, color=policy)

    whole = [measured(array, policy) for array in arrays]
    first = next(loaded_batches(TrainingCrops(files, RULE), plan, 0, CPU.device))
    is_8_bit = arrays[0].dtype == np.uint8
    assert first.shape == (4, len(whole[0]), 24, 24)
    assert first.dtype == (torch.uint8 if is_8_bit else torch.float32)
    expected = [image if is_8_bit else on_unit_scale(image) for image in whole]
    for crop in first:
        assert any(_is_part(crop, image) for image in expected)
    for images in (files, packed):
        for stream in (
            loaded_batches(TrainingCrops(images, RULE), plan, 0, CPU.device),
            DeviceCrops(images, CPU.device).batches(RULE, plan),
        ):
            assert torch.equal(next(iter(islice(stream, 1))), first)


def _is_part(crop, image):
    """Whether a crop is somewhere in ``(C, H, W)``, in one of eight symmetries."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (24, 24), axis=(1, 2))
    views = [dihedral(crop, mode).numpy()[:, None, None] for mode in range(8)]
    return any((windows == view).all(axis=(0, 3, 4)).any() for view in views)


def test_a_store_keeps_the_type_of_its_images(kind, tmp_path):
    folder, arrays, policy = kind
    pack(folder, tmp_path / "x.packed", policy)
    store = PackedImages(tmp_path / "x.packed")

    for k, array in enumerate(arrays):
        image = store.read(k)
        assert image.dtype == array.dtype
        np.testing.assert_array_equal(
            np.atleast_3d(image).transpose(2, 0, 1), measured(array, policy)
        )


def test_what_every_number_was_measured_of_is_scored_as_perfect(kind):
    """Whole numbers of 16 bits lose a little in float32."""
    folder, arrays, policy = kind
    for path, array in zip(list_images(folder), arrays, strict=True):
        image = measured(array, policy)
        result = run(camera(Everything(len(image))), read_pixels(path), color=policy)
        assert result.score.mse < 1e-9
        assert result.pixels.shape == (image.shape[1:] if len(image) == 1 else
                                       (*image.shape[1:], len(image)))  # fmt: skip
        planes = np.atleast_3d(result.pixels).transpose(2, 0, 1)
        planes = planes[::-1] if len(planes) == 3 else planes  # pixels are BGR
        np.testing.assert_allclose(planes / 255, on_unit_scale(image), atol=1e-6)


def test_validation_scores_what_training_measures(kind):
    folder, _, policy = kind
    images, _ = open_training_images([str(folder)], [], 24, color=policy)
    shown = []
    score = validate(
        camera(Everything(images.channels)), images, CPU, 2, lambda k, image: shown.append(image)
    )
    assert score.psnr > 120
    assert [image.shape for image in shown] == images.sizes[:2]


@pytest.mark.parametrize("source", ["files", "device"])
def test_training_on_16_bit_or_float_copies_is_the_same_to_the_bit(tmp_path, source):
    """257 x / 65535 and x / 255 are one number, and both are rounded once."""
    final = {}
    for dtype in WHITE:
        folder = tmp_path / dtype
        (folder / "images").mkdir(parents=True)
        for k in range(4):
            image = smooth_image(40, 48, k)
            image = image if dtype == "uint8" else image.astype(np.uint16) * np.uint16(257)
            image = on_unit_scale(image) if dtype == "float32" else image
            tifffile.imwrite(folder / "images" / f"{k}.tif", image)
        (folder / "held.txt").write_text("3.tif\n")
        data = {"source": source, "validation": str(folder / "held.txt")}
        config = tiny_config(folder / "images", data=data, training={"steps_per_epoch": 3})
        train(config, folder / "run", CPU)
        weights = [Weights(folder / f"run/{name}.safetensors") for name in ("last", "best")]
        final[dtype] = weights[0].load().state_dict(), weights[1].metadata["metrics"]
    for dtype in ("uint16", "float32"):
        (state, score), (other, other_score) = final["uint8"], final[dtype]
        assert all(torch.equal(state[key], other[key]) for key in state)
        assert json.loads(score) == pytest.approx(json.loads(other_score), rel=1e-5)


# What is mixed, or does not fit.


def test_images_of_8_and_16_bits_together_give_float_crops(tmp_path):
    for k, dtype in enumerate(("uint8", "uint16")):
        cv2.imwrite(str(tmp_path / f"{k}.png"), stored(dtype, (24, 24), k))
    images, _ = open_training_images([str(tmp_path)], [], 24)
    crops = torch.stack([TrainingCrops(images, RULE)[n] for n in range(8)])

    assert crops.dtype == torch.float32
    assert 0.9 < float(crops.max()) <= 1
    assert torch.equal(DeviceCrops(images, CPU.device).batch(RULE, list(range(8))), crops)
    pack(tmp_path, tmp_path / "x.packed")
    assert PackedImages(tmp_path / "x.packed").read(0).dtype == np.float32
    pack(tmp_path, tmp_path / "x.luma")
    assert PackedImages(tmp_path / "x.luma").names == ["0.png"]


def test_channels_that_a_policy_does_not_take_are_refused(tmp_path):
    np.save(tmp_path / "cube.npy", stored("uint8", (40, 40, 28), 0))
    for policy in ("luma", "color"):
        with pytest.raises(ImageError, match=f"28 channels, but data.color={policy} needs one"):
            open_training_images([str(tmp_path)], [], 24, color=policy)
        with pytest.raises(ValueError, match=rf"28 channels, but color={policy} needs .*bands"):
            run(camera(Everything(1)), read_pixels(tmp_path / "cube.npy"), color=policy)
    np.save(tmp_path / "other.npy", stored("uint8", (40, 40), 0))
    with pytest.raises(ImageError, match=r"cube.npy has 28 channels and .*other.npy 1; put images"):
        open_training_images([str(tmp_path)], [], 24, color="bands")


def test_a_store_of_another_policy_or_name_is_refused(tmp_path, image_folder):
    pack(image_folder, tmp_path / "x.packed", "color")
    with pytest.raises(ImageError, match="packed with color color, but data.color is luma"):
        open_training_images([str(tmp_path / "x.packed")], [], 24)
    for name, policy in (("x.luma", "color"), ("x.bin", "luma"), ("x.bin", "bands")):
        with pytest.raises(ImageError, match=r"others are \.packed files"):
            pack(image_folder, tmp_path / name, policy)


def test_blocks_for_phi_are_on_the_unit_scale_and_of_one_channel(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), stored("uint16", (24, 24, 3), 0))
    luma, _ = open_training_images([str(tmp_path)], [], 24)
    blocks = sample_blocks(luma, 8, 50, seed=0)
    assert blocks.dtype == torch.float32
    assert 0.5 < float(blocks.max()) <= 1
    colour, _ = open_training_images([str(tmp_path)], [], 24, color="color")
    with pytest.raises(ImageError, match="blocks need images of one channel, .* have 3"):
        sample_blocks(colour, 8, 50, seed=0)


def test_an_operator_of_other_channels_is_named_with_the_policy():
    colour = np.dstack([smooth_image(16, 16, k) for k in range(3)])
    message = r"evaluation.color=color gives images of 3 channels, but BlockSampling measures"
    with pytest.raises(ValueError, match=rf"{message} images of 1; set evaluation.color=luma"):
        run(camera(BlockSampling(torch.eye(64), 8)), colour, color="color")
    with pytest.raises(ValueError, match=r"=luma gives images of 1 .* set evaluation.color=bands"):
        run(camera(FourierMask(torch.ones(16, 16), 2)), colour)


def test_training_images_must_fit_the_operator(image_folder):
    images, _ = open_training_images([str(image_folder)], [], 24)
    mask = FourierMask(torch.ones(64, 64))
    check_fit(mask, images, DataConfig(crop_size=64))
    with pytest.raises(ConfigError, match=r"crop_size is 32, .* 64 x 64 pixels; set .*size=64"):
        check_fit(mask, images, DataConfig(crop_size=32))
    with pytest.raises(ConfigError, match=r"data.color=luma gives .* set data.color=bands"):
        check_fit(FourierMask(torch.ones(64, 64), 2), images, DataConfig(crop_size=64))


# Sizes.


@pytest.mark.parametrize("protocol", ["paper", "ista33"])
def test_cropping_keeps_whole_blocks_and_scores_these_alone(protocol):
    """Else what was left off, 255 here, would count as an error."""
    pixels = np.full((21, 30), 255, np.uint8)
    pixels[:16, :24] = smooth_image(16, 24)
    model = camera(BlockSampling(torch.eye(64), 8))
    result = run(model, pixels, protocol, padding="crop")
    assert result.pixels.shape == (16, 24)
    assert result.score.mse < 1e-6


@pytest.mark.parametrize("protocol", ["paper", "ista33", "ampa"])
@pytest.mark.parametrize("padding", ["zeros", "replicate", "crop"])
def test_an_operator_of_fixed_size_is_never_padded_for(protocol, padding):
    model = camera(FourierMask(torch.ones(16, 24)))
    pixels = smooth_image(16, 24)
    assert run(model, pixels, protocol, padding=padding).score.mse < 1e-6


def test_an_image_of_another_size_is_refused_or_cropped():
    model = camera(FourierMask(torch.ones(16, 24)))
    large = smooth_image(20, 40)
    message = r"the image has 20 x 40 pixels, but FourierMask measures 16 x 24; use images"
    with pytest.raises(ValueError, match=rf"{message} of that size, or evaluation.padding=crop"):
        run(model, large)
    result = run(model, large, padding="crop")
    np.testing.assert_allclose(result.pixels, large[:16, :24], atol=1e-3)
    with pytest.raises(ValueError, match=r"of 9 x 9 pixels cannot be cropped to at least 16 x 24"):
        run(model, large[:9, :9], padding="crop")
    with pytest.raises(ValueError, match=r"of 7 x 9 pixels cannot be cropped to at least 8 x 8"):
        crop_to_blocks(torch.zeros(1, 1, 7, 9), 8)


# The range, and files of reconstructions.


@pytest.mark.parametrize("dtype", WHITE)
def test_both_ways_to_the_unit_scale_agree(dtype):
    pixels = stored(dtype, (40, 40), 0)
    pixels[0, 0] = WHITE[dtype]
    expected = torch.from_numpy(on_unit_scale(pixels))
    assert torch.equal(values.to_unit(torch.from_numpy(pixels)), expected)
    assert torch.equal(torch.from_numpy(values.unit_array(pixels)), expected)
    assert values.protocol_scale(pixels)[0, 0] == 255
    assert values.unit_array(pixels)[0, 0] == 1


def test_reconstructions_of_one_or_three_channels_are_png_others_floats(tmp_path):
    images = {n: stored("float32", (9, 12, n), n).squeeze() for n in (1, 2, 3, 28)}
    for n, image in images.items():
        write_reconstruction(tmp_path / "set" / f"a.{n}", image)
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == [
        "a.1.png", "a.2.npy", "a.28.npy", "a.3.png"
    ]  # fmt: skip
    for n in (1, 3):
        written = read_pixels(tmp_path / "set" / f"a.{n}.png")
        np.testing.assert_array_equal(written, np.rint(images[n] * 255))
    for n in (2, 28):
        written = np.load(tmp_path / "set" / f"a.{n}.npy")
        assert written.dtype == np.float32
        np.testing.assert_array_equal(written, images[n])


def test_pictures_to_look_at_are_grey():
    complex_image = np.dstack([np.full((2, 2), 3.0), np.full((2, 2), -4.0)])
    np.testing.assert_array_equal(color.grey_picture(complex_image), np.full((2, 2), 5.0))
    assert color.grey_picture(np.ones((2, 2, 28))).shape == (2, 2)
