"""Much of everything: memory, open files and the log do not grow with the work. Long tests.

python -m pytest -m long tests/test_load.py
"""

import hashlib
import json
import os
import re
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lgmnet.config import config_from_dict
from lgmnet.data.crops import CropRule, TrainingCrops
from lgmnet.data.packed import MAGIC, PackedImages
from lgmnet.runtime import Runtime
from lgmnet.training.loop import train
from tests.conftest import smooth_image
from tests.disk import call
from tests.test_training import records

pytestmark = pytest.mark.long
# What memory may grow by from a tenth of the work to its end, in MiB: gaps in the heap.
GROWTH_MIB = 30


class Watch:
    """Samples the memory of this process that is no file (MiB), and how many files it has open."""

    def __enter__(self):
        self.samples = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._over.wait(0.1):
            self.samples.append((anonymous_mib(), len(os.listdir("/proc/self/fd"))))

    def __exit__(self, *exception):
        self._over.set()
        self._thread.join()

    def require_constant(self, about):
        """The last fifth of the work is like the second tenth."""
        count = len(self.samples)
        assert count >= 50
        early = np.max(self.samples[count // 10 : count // 5], axis=0)
        late = np.max(self.samples[-count // 5 :], axis=0)
        print(f"{about}: {early[0]:.0f} -> {late[0]:.0f} MiB, {early[1]} -> {late[1]} open files")
        assert late[0] - early[0] < GROWTH_MIB
        assert late[1] <= early[1] + 2


def anonymous_mib():
    status = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) / 1024


def test_five_thousand_images_are_scored_in_constant_memory(tmp_path, weights):
    images = tmp_path / "images"
    images.mkdir()
    for k in range(10):
        cv2.imwrite(str(images / f"{k:04}.png"), smooth_image(48, 64, k))
    for k in range(10, 5000):
        os.link(images / f"{k % 10:04}.png", images / f"{k:04}.png")
    with Watch() as watch:
        code, text = call(
            "test.py",
            [weights, "--device", "cpu", "--data", images, "--output", tmp_path / "out"],
        )
    assert code == 0, text
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(scores["datasets"]["images"]["images"]) == 5000
    watch.require_constant("test.py over 5,000 images")


def test_ten_thousand_saves_in_constant_memory(tmp_path, image_folder):
    changes = {"steps_per_epoch": 10_000, "validate_every": 1, "log_every": 100, "batch_size": 1}
    # Few and small tensors, because the time of a save grows with their number and size.
    small = {
        "model": {"name": "ista_net", "stages": 1, "channels": 2},
        "sampling": {"ratio": 0.1, "block_size": 8},
        "data": {"train": [str(image_folder)], "crop_size": 16, "workers": 0, "source": "device"},
        "training": {"epochs": 1, "rate": 1e-3, **changes},
    }
    config = config_from_dict(small)
    with Watch() as watch:
        assert train(config, tmp_path / "run", Runtime(torch.device("cpu"))) == 0
    watch.require_constant("10,000 saves")
    assert torch.load(tmp_path / "run" / "last.pt")["step"] == 10_000
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    print(f"log.jsonl: {len(lines)} lines")
    assert len(lines) <= 10_000 / 100 + 5
    assert len(records(tmp_path / "run", "train")) == 100
    assert len(list((tmp_path / "run").iterdir())) < 10


SIDE, COUNT = 2000, 5000


def sparse_store(path):
    """5,000 black images of 2000 x 2000 pixels: 20 GB that take no room on the disk."""
    area = SIDE * SIDE
    checksum = zlib.crc32(bytes(area))
    index = [[f"{k}.png", SIDE, SIDE, checksum] for k in range(COUNT)]
    text = json.dumps(index).encode()
    with path.open("wb") as file:
        file.write(MAGIC)
        file.seek(COUNT * area, os.SEEK_CUR)
        file.write(text + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + MAGIC)


def test_a_store_of_20_gb_is_opened_and_sampled(tmp_path):
    sparse_store(tmp_path / "x.luma")
    assert (tmp_path / "x.luma").stat().st_size > 20e9
    before, begun = anonymous_mib(), time.monotonic()
    store = PackedImages(tmp_path / "x.luma")
    opened = time.monotonic() - begun
    crops = TrainingCrops(store, CropRule(128, seed=1))
    for number in range(300):
        assert crops[number].shape == (1, 128, 128)
    sampled = time.monotonic() - begun - opened
    print(f"20 GB: opened in {opened:.2f} s, 300 crops in {sampled:.2f} s")
    assert opened < 5
    assert anonymous_mib() - before < 50
    assert not crops.unreadable.any()
