"""The packed store: exact, resumable, checked when it is opened, and fast."""

import hashlib
import json
import os
import pickle
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from lgmnet.data import packed
from lgmnet.data.crops import CropRule, TrainingCrops
from lgmnet.data.datasets import FileImages, open_training_images
from lgmnet.data.images import ImageError, list_images, read_training_luma, scan
from lgmnet.data.packed import MAGIC, PackedImages, pack

NAMES = ["a/1.png", "a/2.png", "b.png", "c.png"]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Four images of different sizes, one of them in colour."""
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    for k, name in enumerate(NAMES[:3]):
        cv2.imwrite(str(root / name), noise(30 + k, 41 - 3 * k, seed=k))
    cv2.imwrite(str(root / NAMES[3]), noise(20, 99, seed=9).reshape(20, 33, 3))
    return root


@pytest.fixture
def interrupt(monkeypatch):
    """Make packing stop when it reads a certain file; returns the list of files read."""

    def install(name: str | None) -> list[str]:
        seen = []

        def read(path):
            seen.append(path.name)
            if path.name == name:
                raise KeyboardInterrupt
            return read_training_luma(path)

        monkeypatch.setattr(packed, "read_training_luma", read)
        return seen

    return install


def packed_bytes(folder, output) -> bytes:
    pack(folder, output)
    return output.read_bytes()


# Exact.


def test_a_store_holds_the_decoded_luma_by_relative_name(folder, tmp_path):
    pack(folder, tmp_path / "new" / "x.luma")
    store = PackedImages(tmp_path / "new" / "x.luma")

    assert store.names == NAMES
    assert store.sizes == [(30, 41), (31, 38), (32, 35), (20, 33)]
    for k, name in enumerate(NAMES):
        np.testing.assert_array_equal(store.read(k), read_training_luma(folder / name))


def test_small_images_are_left_out_when_a_store_is_opened_for_training(folder, tmp_path):
    pack(folder, tmp_path / "x.luma")
    images, rejected = open_training_images([str(tmp_path / "x.luma")], [], smallest=30)

    assert images.names == NAMES[:3]
    assert list(rejected) == ["c.png"]
    assert "too small: 20 x 33" in rejected["c.png"]
    np.testing.assert_array_equal(images.read(2), read_training_luma(folder / "b.png"))


def test_a_store_travels_to_another_process_by_path(folder, tmp_path):
    """Loader processes that are not forked receive it pickled; COCO would be 30 GB."""
    pack(folder, tmp_path / "x.luma")
    store = PackedImages(tmp_path / "x.luma")

    message = pickle.dumps(store)

    assert len(message) < sum(h * w for h, w in store.sizes) / 2
    np.testing.assert_array_equal(pickle.loads(message).read(1), store.read(1))


# Left out.


def test_an_undecodable_image_is_left_out_and_named(folder, tmp_path, capsys):
    bad = folder / "a" / "bad.png"
    bad.write_bytes((folder / "b.png").read_bytes()[:-300])

    pack(folder, tmp_path / "x.luma")

    assert PackedImages(tmp_path / "x.luma").names == NAMES
    output = capsys.readouterr().out
    assert f"left out: {bad} cannot be decoded" in output
    assert "4 images packed, 1 left out" in output


def test_a_store_holds_the_images_that_a_scan_of_the_folder_accepts(folder, tmp_path):
    """Else sample number n is another crop from the store than from the files."""
    (folder / "deep.pgm").write_bytes(b"P5\n40 40\n4000\n" + bytes(3200))
    Image.merge("CMYK", [Image.fromarray(noise(40, 40))] * 4).save(folder / "print.jpg")
    found = scan(list_images(folder), smallest=1)

    pack(folder, tmp_path / "x.luma")

    expected = [path.relative_to(folder).as_posix() for path in found.paths]
    assert len(found.rejected) == 2
    assert PackedImages(tmp_path / "x.luma").names == expected


def test_a_folder_without_a_usable_image_is_an_error(tmp_path):
    (tmp_path / "x.png").write_bytes(b"hello")

    with pytest.raises(ImageError, match="contains no image that can be decoded; nothing to pack"):
        pack(tmp_path, tmp_path / "x.luma")
    assert not (tmp_path / "x.luma").exists()


# Resumed.


@pytest.mark.parametrize("stopped_at", ["1.png", "2.png", "c.png"])
def test_a_resumed_store_is_identical_and_reads_no_image_twice(
    folder, tmp_path, interrupt, stopped_at
):
    (folder / "a" / "1-bad.png").write_bytes(b"hello")  # left out, before and after
    expected = packed_bytes(folder, tmp_path / "whole.luma")
    output = tmp_path / "x.luma"

    before = interrupt(stopped_at)
    with pytest.raises(KeyboardInterrupt):
        pack(folder, output)
    assert not output.exists()
    after = interrupt(None)
    pack(folder, output)

    assert output.read_bytes() == expected
    assert after[0] == stopped_at
    assert not set(before[:-1]) & set(after)
    assert sorted(path.name for path in tmp_path.glob("x.luma*")) == ["x.luma"]


def test_a_torn_end_of_an_interrupted_run_is_packed_again(folder, tmp_path, interrupt):
    """The power failed while pixels and the journal's last line were written."""
    expected = packed_bytes(folder, tmp_path / "whole.luma")
    interrupt("b.png")
    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "x.luma")
    with (tmp_path / "x.luma.part").open("ab") as part:
        part.write(b"half an image")
    with (tmp_path / "x.luma.journal").open("a") as journal:
        journal.write('["b.png", 3')
    interrupt(None)

    assert packed_bytes(folder, tmp_path / "x.luma") == expected


def test_pixels_that_never_reached_the_disk_are_packed_again(folder, tmp_path, interrupt):
    expected = packed_bytes(folder, tmp_path / "whole.luma")
    interrupt("c.png")
    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "x.luma")
    part = tmp_path / "x.luma.part"
    part.write_bytes(part.read_bytes()[:-1])
    interrupt(None)

    assert packed_bytes(folder, tmp_path / "x.luma") == expected


def test_the_journal_of_another_folder_is_not_continued(folder, tmp_path, interrupt):
    other = tmp_path / "other"
    other.mkdir()
    for k, name in enumerate(("1.png", "z.png")):
        cv2.imwrite(str(other / name), noise(25, 27, seed=50 + k))
    expected = packed_bytes(other, tmp_path / "whole.luma")
    interrupt("c.png")
    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "x.luma")
    interrupt(None)

    assert packed_bytes(other, tmp_path / "x.luma") == expected


def remove_one(folder):
    (folder / "a" / "2.png").unlink()


def replace_one(folder):
    """By another image of the same shape and number of bytes."""
    path = folder / "a" / "2.png"
    replaced = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    size = path.stat().st_size
    path.write_bytes(cv2.imencode(".png", 255 - replaced)[1].tobytes().ljust(size, b"\0")[:size])


def add_one(folder):
    cv2.imwrite(str(folder / "a" / "1-b.png"), noise(30, 30, seed=77))


def repair_one(folder):
    cv2.imwrite(str(folder / "a" / "0-bad.png"), noise(30, 30, seed=78))


@pytest.mark.parametrize("change", [remove_one, replace_one, add_one, repair_one])
def test_a_resumed_store_holds_what_the_folder_holds_now(folder, tmp_path, interrupt, change):
    (folder / "a" / "0-bad.png").write_bytes(b"hello")
    interrupt("c.png")
    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "x.luma")
    change(folder)
    interrupt(None)

    assert packed_bytes(folder, tmp_path / "x.luma") == packed_bytes(folder, tmp_path / "y.luma")


def test_a_journal_of_an_older_version_is_not_continued(folder, tmp_path):
    expected = packed_bytes(folder, tmp_path / "whole.luma")
    (tmp_path / "x.luma.part").write_bytes(MAGIC + bytes(30 * 41))
    (tmp_path / "x.luma.journal").write_text(f'{folder}\n["a/1.png", 30, 41]\n')

    assert packed_bytes(folder, tmp_path / "x.luma") == expected


def test_names_that_are_not_utf8_are_packed_and_printed(folder, tmp_path, interrupt, capsys):
    """In the names of images, folder and store; also after a stop."""
    folder = folder.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    for k in range(2):
        (folder / f"{k}.png").write_bytes((folder / "b.png").read_bytes())
        (folder / f"{k}.png").rename(folder / os.fsdecode(b"\xe9%d.png" % k))
    (folder / os.fsdecode(b"\xe9-bad.png")).write_bytes(b"hello")
    output = tmp_path / os.fsdecode(b"\xe9.luma")
    interrupt(os.fsdecode(b"\xe91.png"))
    with pytest.raises(KeyboardInterrupt):
        pack(folder, output)
    seen = interrupt(None)
    pack(folder, output)

    assert len(seen) == 1
    assert PackedImages(output).names[-2:] == ["\\udce90.png", "\\udce91.png"]
    assert r"\udce9-bad.png cannot be read" in capsys.readouterr().out


# Refused.


def footer_length(store: bytes, length: int) -> bytes:
    """The store, claiming another length of its index."""
    return store[:-48] + length.to_bytes(8, "little") + store[-40:]


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store[:-1],
        lambda store: store[: len(store) // 2],
        lambda store: store[:20],
        lambda store: b"",
        lambda store: store + b"\n",
        lambda store: store[:20] + b"x" + store[20:],
        lambda store: store[:20] + store[21:],
        lambda store: store.replace(b'"b.png", 32, 35', b'"b.png", 35, 32'),
        lambda store: store.replace(MAGIC, b"LGMLUMA9"),
        lambda store: footer_length(store, len(store)),
        lambda store: footer_length(store, 2**63),
        lambda store: cv2.imencode(".png", noise(60, 60))[1].tobytes(),
    ],
    ids=[
        "last byte missing",
        "half",
        "head",
        "empty",
        "byte added at the end",
        "byte added inside",
        "byte missing inside",
        "index changed",
        "another version",
        "index as long as the file",
        "index of 2^63 bytes",
        "an image",
    ],
)
def test_a_file_that_is_no_complete_store_is_refused(folder, tmp_path, change):
    path = tmp_path / "x.luma"
    store = packed_bytes(folder, path)
    path.write_bytes(change(store))

    assert path.read_bytes() != store
    with pytest.raises(ImageError, match=r"x\.luma is not a complete packed store; pack it again"):
        PackedImages(path)


def with_index(store: bytes, index: object) -> bytes:
    """The store with another index and a footer that fits it."""
    length = int.from_bytes(store[-48:-40], "little")
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    footer = len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + MAGIC
    return store[: -48 - length] + text + footer


@pytest.mark.parametrize(
    "index",
    [
        [["a", 1230.0, 1]],
        [["a", "1230", 1]],
        [["a", -1230, -1]],
        [["a", 2460, 1], ["b", -1230, 1]],
        [["a", True, 1230]],
        [["a", 1230, 1], ["b", 0, 7]],
        [[None, 1230, 1]],
        [["a", 1230, 10**30]],
        [["a", 1230]],
        ["abc"],
        {"a": 1},
        7,
        [],
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=lambda index: str(index)[:30],
)
def test_an_index_of_something_else_is_refused(tmp_path, index):
    cv2.imwrite(str(tmp_path / "a.png"), noise(30, 41))
    path = tmp_path / "x.luma"
    store = packed_bytes(tmp_path / "a.png", path)
    path.write_bytes(with_index(store, [["a", 1230, 1]]))
    assert PackedImages(path).sizes == [(1230, 1)]

    path.write_bytes(with_index(store, index))
    with pytest.raises(ImageError, match=r"x\.luma is not a complete packed store"):
        PackedImages(path)


def test_a_missing_store_says_how_to_make_it(tmp_path):
    with pytest.raises(ImageError, match=r"no packed store .*x\.luma; make it with"):
        PackedImages(tmp_path / "x.luma")


# Fast.


def seconds_per_crop(images, count: int) -> float:
    """The best of three rounds, which other work on the machine disturbs least."""
    crops = TrainingCrops(images, CropRule(size=32, seed=0))
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for number in range(count):
            crops[number]
        rounds.append((time.perf_counter() - start) / count)
    return min(rounds)


def test_a_crop_from_the_store_is_twenty_times_as_fast_as_from_a_jpeg(tmp_path):
    cv2.imwrite(str(tmp_path / "x.jpg"), noise(512, 512))
    pack(tmp_path, tmp_path / "x.luma")
    files = FileImages([tmp_path / "x.jpg"], [(512, 512)])

    store = seconds_per_crop(PackedImages(tmp_path / "x.luma"), 200)

    assert seconds_per_crop(files, 10) >= 20 * store
