"""JPEG decoding on a GPU, with OpenCV standing in for torchvision where there is none."""

import sys
from itertools import islice
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lgmnet.config import ConfigError
from lgmnet.data import jpeg
from lgmnet.data.crops import CropRule, Plan, TrainingCrops, loaded_batches
from lgmnet.data.datasets import open_training_images, split
from lgmnet.data.packed import pack
from lgmnet.runtime import Runtime
from lgmnet.training.batches import open_batches
from tests.conftest import smooth_image, tiny_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RULE = CropRule(size=24, seed=7, batch=6)


@pytest.fixture
def folder(tmp_path):
    """JPEG and PNG; a JPEG cut short, one with an end behind the cut, one to be turned, and one
    whose name lies; all of different sizes."""
    for k in range(5):
        name = tmp_path / f"{k}.{'png' if k == 3 else 'jpg'}"
        cv2.imwrite(str(name), smooth_image(40 + k, 60 - k, k))
    whole = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "ended.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth_image(47, 53)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "lies.jpg").write_bytes((tmp_path / "3.png").read_bytes())
    return tmp_path


@pytest.fixture
def torchvision(monkeypatch):
    """Decodes whole JPEGs as torchvision's decode_jpeg does, and notes how many at once."""

    def decode_jpeg(contents, mode, device):
        assert mode == "gray"
        decoded.append(len(contents))
        if refuses[0]:
            raise RuntimeError("nvjpegDecode failed")
        pixels = [cv2.imdecode(c.numpy(), cv2.IMREAD_GRAYSCALE) for c in contents]
        return [torch.from_numpy(p)[None].to(device) for p in pixels]

    decoded, refuses = [], [False]
    io = ModuleType("torchvision.io")
    io.decode_jpeg, io.ImageReadMode = decode_jpeg, SimpleNamespace(GRAY="gray")
    package = ModuleType("torchvision")
    package.io = io
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.io", io)
    return SimpleNamespace(decoded=decoded, refuses=refuses)


def crops_of(folder):
    images, _ = open_training_images([str(folder)], [], RULE.size)
    return TrainingCrops(split(images, ["1.jpg"])[0], RULE)


@pytest.mark.parametrize("refuses", [False, True])
def test_the_crops_are_those_of_the_files(folder, torchvision, refuses):
    torchvision.refuses[0] = refuses
    plan = Plan(2, 6)
    expected = torch.stack(list(islice(loaded_batches(crops_of(folder), plan, 0, CPU), 8)))
    crops = crops_of(folder)
    found = torch.stack(list(islice(jpeg.decoded_batches(crops, plan, 2, CPU), 8)))
    assert torch.equal(found, expected)
    assert crops.unreadable_names() == ["cut.jpg", "ended.jpg"]
    assert 8 < sum(torchvision.decoded) < 48  # four of the eight images look whole and upright


def test_a_header_that_lies_about_the_size_is_left_to_the_other_decoder(folder, torchvision):
    crops = crops_of(folder)
    crops.images.sizes[0] = (44, 60)  # the file has 40 rows
    batch = next(jpeg.decoded_batches(crops, Plan(0, 120), 1, CPU))
    assert batch.shape == (120, 1, 24, 24)
    assert "0.jpg" in crops.unreadable_names()


def test_what_is_missing_is_said(folder, torchvision, monkeypatch):
    images = crops_of(folder).images
    assert jpeg.unavailable(images, CUDA) == ""
    assert jpeg.unavailable(images, CPU) == "it needs a CUDA device"
    pack(folder, folder / "store.luma")
    packed, _ = open_training_images([str(folder / "store.luma")], [], RULE.size)
    assert jpeg.unavailable(packed, CUDA) == "a packed store needs no decoding"
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    assert "torchvision cannot be imported" in jpeg.unavailable(images, CUDA)


def test_without_a_gpu_training_decodes_on_the_cpu_and_says_so_once(folder, capsys):
    config = tiny_config(folder, data={"decode": "gpu", "workers": 0})
    images, _ = open_training_images([str(folder)], [], 32)
    _, batches = open_batches(config, images, Runtime(CPU), 0)
    assert next(batches).shape == (4, 1, 32, 32)
    assert capsys.readouterr().out == (
        "data.decode=gpu is not possible here, decoding on the CPU: it needs a CUDA device\n"
    )


def test_images_that_are_kept_on_the_device_are_not_decoded_there():
    with pytest.raises(ConfigError, match="choose source=files or decode=cpu"):
        tiny_config(data={"decode": "gpu", "source": "device"})


@pytest.mark.gpu
def test_the_gpu_decodes_as_the_cpu_does_but_for_rounding(folder):
    pytest.importorskip("torchvision")
    for name in ("cut.jpg", "ended.jpg", "lies.jpg", "turned.jpg"):
        (folder / name).unlink()
    plan = Plan(0, 6)
    expected = next(loaded_batches(crops_of(folder), plan, 0, CPU)).numpy().astype(int)
    found = next(jpeg.decoded_batches(crops_of(folder), plan, 2, CUDA)).cpu().numpy()
    assert np.abs(found - expected).max() <= 3
