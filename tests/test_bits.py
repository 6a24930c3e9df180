"""A flipped bit in a file of ours is noticed, or it was one that says nothing."""

import hashlib
import json
import random

import numpy as np
import pytest
import torch

from lgmnet.build import build_model
from lgmnet.config import config_from_dict
from lgmnet.data.images import ImageError
from lgmnet.data.packed import FOOTER, PackedImages, pack
from lgmnet.training import states
from lgmnet.weights import saved, tensor_files
from lgmnet.weights.adapters import Adapted, save_adapters
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.measurement import load_measurement, measure_image, save_measurement
from tests.conftest import smooth_image, tiny_config

CONFIG = tiny_config()
MASKED = config_from_dict(
    {
        "model": {
            "name": "ista_net",
            "stages": 1,
            "channels": 2,
            "prior_domain": "image",
            "start": "back_projection",
        },
        "sampling": {"operator": "fourier_mask", "mask": "cartesian", "size": [16, 16]},
    }
)
LORUN = {"name": "lorun", "stages": 2, "denoiser": "transformer", "width": 4}


def small_state(path):
    """A state like one of a run, and how it is read."""
    model = build_model(CONFIG)
    state = {"config": json.dumps(CONFIG.as_dict()), "model": model.state_dict(), "step": 3}
    states.save_state(path, state)
    return lambda: states.load_training_state(path, CONFIG)["model"]


def small_weights(path):
    saved.save_weights(path, build_model(CONFIG), CONFIG, {"step": "3"})
    return lambda: saved.Weights(path).load().state_dict()


def small_masked_weights(path):
    """Weights with a boolean tensor, the mask."""
    model = build_model(MASKED)
    assert torch.bool in {tensor.dtype for tensor in model.state_dict().values()}
    saved.save_weights(path, model, MASKED)
    return lambda: saved.Weights(path).load().state_dict()


def small_adapters(path):
    tree = {**tiny_config(lora={"share": 0.5}).as_dict(), "model": LORUN}
    config = config_from_dict(tree)
    saved.save_weights(path.with_name("both.safetensors"), build_model(config), config)
    whole = saved.Weights(path.with_name("both.safetensors"))
    save_adapters(path, whole)
    return lambda: Adapted(whole, path).load().state_dict()


def small_measurement(path):
    measured = measure_image(build_model(CONFIG), smooth_image(40, 50), "x")
    save_measurement(path, measured)

    def read():
        y = load_measurement(path)
        about = torch.tensor([y.height, y.width, int(y.phi_sha256, 16) % 2**62])
        return {"values": y.values, "about": about}

    return read


def small_store(path):
    folder = path.with_suffix("")
    folder.mkdir()
    for k in range(3):
        cv2_write(folder / f"{k}.png", smooth_image(20, 30, k))
    pack(folder, path)
    return store_reader(path)


def small_deep_store(path):
    """Of 16 bits and three channels."""
    folder = path.with_suffix("")
    folder.mkdir()
    for k in range(3):
        deep = 257 * smooth_image(20, 30, k).astype(np.uint16)
        cv2_write(folder / f"{k}.png", np.stack([deep, deep // 2, deep // 3], axis=2))
    pack(folder, path, "color")
    assert PackedImages(path).layout.dtype == "uint16"
    return store_reader(path)


def store_reader(path):
    def read():
        store = PackedImages(path)
        return {name: torch.tensor(store.read(k)) for k, name in enumerate(store.names)}

    return read


def cv2_write(path, image):
    import cv2

    cv2.imwrite(str(path), image)


KINDS = {
    "state.pt": small_state,
    "weights.safetensors": small_weights,
    "masked.safetensors": small_masked_weights,
    "adapters.safetensors": small_adapters,
    "measurement.safetensors": small_measurement,
    "store.luma": small_store,
    "store.packed": small_deep_store,
}
ERRORS = CheckpointError, ImageError


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def told(read, expected):
    """What the error says; nothing where the content is what it was."""
    try:
        content = read()
    except ERRORS as error:
        return str(error)
    assert same(content, expected)
    return ""


def flip(folder, kind, count, seed):
    """Flip one bit at a time: how often it was noticed, and how often it meant nothing."""
    path = folder / kind
    read = KINDS[kind](path)
    expected, content = read(), path.read_bytes()
    draw, noticed = random.Random(seed), 0
    for _ in range(count):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        message = told(read, expected)
        assert path.stem in message or not message, message
        noticed += bool(message)
    return noticed


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed(kind, tmp_path):
    count = 3 if "adapters" in kind else 20  # half a second each, and a tenth
    assert flip(tmp_path, kind, count, seed=1) > count / 2


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_flipped_bits_are_noticed(kind, tmp_path):
    count = 100 if "adapters" in kind else 1000
    noticed = flip(tmp_path, kind, count, seed=2)
    print(f"{kind}: {noticed} of {count} noticed, the others meant nothing")
    assert noticed > count / 2


def test_files_of_an_older_version_have_no_hash_and_are_read(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    read = small_weights(tmp_path / "w.safetensors")
    expected = read()
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        metadata = file.metadata()
    del metadata[tensor_files.CONTENT]
    save_file(load_file(tmp_path / "w.safetensors"), tmp_path / "w.safetensors", metadata)
    assert same(read(), expected)


@pytest.mark.parametrize("kind", ["store.luma", "store.packed"])
def test_a_store_of_an_older_version_is_read(kind, tmp_path):
    path = tmp_path / kind
    read = KINDS[kind](path)
    expected, content = read(), path.read_bytes()
    length = int.from_bytes(content[-FOOTER:][:8], "little")
    index = json.loads(content[-FOOTER - length : -FOOTER])
    if kind == "store.luma":
        index = [entry[:3] for entry in index]
    else:
        index["images"] = [entry[:3] for entry in index["images"]]
    text = json.dumps(index).encode()
    footer = len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + content[:8]
    path.write_bytes(content[: -FOOTER - length] + text + footer)
    assert len(path.read_bytes()) < len(content)
    assert same(read(), expected)


def test_damaged_pixels_of_a_store_are_named_by_image(tmp_path):
    small_store(tmp_path / "s.luma")
    content = bytearray((tmp_path / "s.luma").read_bytes())
    content[8 + 20 * 30 + 5] ^= 1  # in the second image
    (tmp_path / "s.luma").write_bytes(content)
    store = PackedImages(tmp_path / "s.luma")
    assert np.array_equal(store.read(0), smooth_image(20, 30, 0))
    with pytest.raises(ImageError, match=r"the pixels of 1\.png in .*s\.luma are damaged"):
        store.read(1)


def test_a_state_that_the_disk_did_not_keep_leaves_the_one_before(tmp_path, monkeypatch):
    """As a disk that says yes and keeps half: what is read back is not what was written."""
    path = tmp_path / "last.pt"
    read = small_state(path)
    before, save = path.read_bytes(), torch.save

    def half(state, temporary):
        save(state, temporary)
        with open(temporary, "r+b") as file:
            file.seek(3000)
            file.write(bytes(64))

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(CheckpointError, match=r"cannot write .*last\.pt .*the previous file is"):
        small_state(path)
    assert path.read_bytes() == before
    assert read()
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_weights_with_nan_are_refused_by_name(tmp_path):
    """Written by somebody else: `save_weights` writes none."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "w.safetensors"
    small_weights(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = next(key for key in tensors if key.startswith("network"))
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, path, tensor_files.with_content_hash(metadata, tensors))
    with pytest.raises(CheckpointError, match=f"{name} in .* holds NaN or infinity"):
        saved.load(path)
