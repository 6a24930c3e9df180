"""Sets of images: what is trained on, what is not, and names of any bytes."""

import os
import runpy
import shutil
import sys

import cv2
import numpy as np
import pytest

from lgmnet.config import ConfigError
from lgmnet.data import packed
from lgmnet.data.datasets import FileImages, open_test_set, open_training_images
from lgmnet.data.images import (
    ImageError,
    list_images,
    read_training_luma,
    scan,
    write_image,
)
from lgmnet.data.packed import pack
from lgmnet.training.images import open_data
from tests.conftest import PROJECT, smooth_image, tiny_config

# Copies of validation images.


@pytest.fixture
def held(image_folder, tmp_path):
    """Two of the six images copied, one under another name; and others with the names of two."""
    folder = tmp_path / "held"
    folder.mkdir()
    shutil.copy(image_folder / "image1.png", folder)
    shutil.copy(image_folder / "more" / "image4.png", folder / "renamed.png")
    write_image(folder / "image2.png", smooth_image(80, 80, seed=50))
    write_image(folder / "image3.png", smooth_image(64, 96, seed=51))
    return folder


def test_copies_of_validation_images_are_not_trained_on(image_folder, held, tmp_path):
    """Whatever their names; the packed store leaves out what the folder leaves out."""
    pack(image_folder, tmp_path / "x.luma")
    for source in (image_folder, tmp_path / "x.luma"):
        data = open_data(tiny_config(source, data={"validation": str(held)}))

        short = [name.rsplit("/", 1)[-1] for name in data.train.names]
        assert short == ["image0.png", "image2.png", "image3.png", "image5.png"]
        assert len(data.validation.names) == 4
        assert len(data.rejected) == 2
        assert all("validation image" in reason for reason in data.rejected.values())


def test_copies_of_listed_validation_images_are_not_trained_on(image_folder, tmp_path):
    (image_folder / "copy.png").write_bytes((image_folder / "image1.png").read_bytes())
    pack(image_folder, tmp_path / "x.luma")
    (tmp_path / "held.txt").write_text("image1.png\n")
    for source in (image_folder, tmp_path / "x.luma"):
        data = open_data(tiny_config(source, data={"validation": str(tmp_path / "held.txt")}))
        assert len(data.train.names) == 5
        assert list(data.rejected.values()) == ["copy.png is a copy of a validation image"]


def test_a_copy_is_found_in_a_store_of_another_decoder(image_folder, held, tmp_path, monkeypatch):
    """Versions of a decoder differ by a level here and there."""

    def decode(path):
        pixels = np.array(read_training_luma(path))
        pixels[::3] = np.clip(pixels[::3].astype(int) + 1, 0, 255)
        return pixels

    with monkeypatch.context() as patch:
        patch.setattr(packed, "read_training_luma", decode)
        pack(image_folder, tmp_path / "x.luma")

    _, rejected = open_training_images([str(tmp_path / "x.luma")], [], 32, list_images(held))

    assert list(rejected) == ["image1.png", "more/image4.png"]


def test_a_validation_folder_inside_the_training_folder_is_left_out(image_folder):
    inside = str(image_folder / "more")
    data = open_data(tiny_config(image_folder, data={"validation": inside}))

    assert data.train.names == [f"image{k}.png" for k in range(4)]


# Lists and names.


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_list_of_validation_images_may_begin_with_a_mark(image_folder, tmp_path, mark):
    """As Notepad saves it. And it may name a file whose name is not UTF-8."""
    odd = b"\xe9.png"
    write_image(image_folder / os.fsdecode(odd), smooth_image(64, 64, seed=9))
    (tmp_path / "v.txt").write_bytes(mark + b"image1.png\r\n# no\r\n\r\n" + odd + b"\r\n")

    data = open_data(tiny_config(image_folder, data={"validation": str(tmp_path / "v.txt")}))

    assert data.validation.names == ["image1.png", r"\udce9.png"]


def test_a_missing_list_is_named(image_folder):
    with pytest.raises(ConfigError, match=r"names nowhere\.txt, but there is no such file"):
        open_data(tiny_config(image_folder, data={"validation": "nowhere.txt"}))


def test_names_of_a_test_set_can_be_printed(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_image(folder / os.fsdecode(b"\xff.png"), smooth_image(40, 40))

    found = open_test_set(str(folder), [])

    assert [found.name, *(image.name for image in found)] == [r"caf\udce9", r"\udcff"]


def test_names_that_are_not_utf8_pass_through_the_scripts(tmp_path, monkeypatch, capsys):
    """In image, folder and output; a terminal that takes UTF-8 only."""
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    image, out = odd / os.fsdecode(b"\xff.png"), tmp_path / os.fsdecode(b"out\xff")
    write_image(image, smooth_image(40, 40))

    monkeypatch.chdir(PROJECT)
    for command in (
        ["test.py", "--data", odd, "--output", out, "--save-images"],
        ["scripts/measure.py", image, "--output", odd / "y.safetensors"],
        ["scripts/prepare_data.py", "--pack", odd, odd / "x.luma"],
    ):
        monkeypatch.setattr(sys, "argv", list(map(os.fspath, command)))
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(PROJECT / command[0]), run_name="__main__")
        assert ended.value.code == 0

    assert "packed " in capsys.readouterr().out.encode("utf-8").decode("ascii").splitlines()[-1]
    assert (out / r"caf\udce9" / r"\udcff.png").is_file()


def test_a_file_that_was_replaced_by_one_of_another_size_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), smooth_image(40, 60))
    found = scan([tmp_path / "a.png"], smallest=32)
    images = FileImages(found.paths, found.sizes)
    assert images.read(0).shape == (40, 60)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 20), np.uint8))

    with pytest.raises(ImageError, match=r"a\.png has \(20, 20\) pixels now, it had \(40, 60\)"):
        images.read(0)


def test_a_part_of_a_set_has_its_images_in_order(image_folder):
    names = [path.name for path in list_images(image_folder)]
    for text, part in (("[:2]", names[:2]), ("[2:]", names[2:]), ("[1:3]", names[1:3])):
        found = open_test_set(f"{image_folder}{text}", [])
        assert [path.name for path in found.paths] == part
        images, _ = open_training_images([f"{image_folder}{text}"], [], 16)
        assert images.names == part
    assert open_test_set(f"{image_folder}[2:]", []).name == f"{image_folder.name}_2-{len(names)}"
    assert open_test_set(f"{image_folder.name}[2:]", [image_folder.parent]).names
    with pytest.raises(ImageError, match=rf"\[7:\] is empty: the set has {len(names)} images"):
        open_test_set(f"{image_folder}[7:]", [])


def test_a_folder_may_be_named_like_a_part(image_folder, tmp_path):
    image_folder.rename(tmp_path / "set[1:2]")
    assert len(open_test_set(str(tmp_path / "set[1:2]"), [])) > 1


def test_a_part_of_the_builtin_images():
    part = open_test_set("builtin[1:3]", [])
    assert (part.name, part.names) == ("builtin_1-3", ["camera", "chelsea"])
    images, _ = open_training_images(["builtin[:2]"], [], 8)
    assert images.names == ["brick.png", "cell.png"]
