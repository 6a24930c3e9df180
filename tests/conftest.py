"""Shared pieces of the tests: the reference data, tiny models and tiny image folders."""

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lgmnet.build import build_model
from lgmnet.config import Config, config_from_dict
from lgmnet.speed.precision import convolutions
from lgmnet.weights.saved import save_weights

PROJECT = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: one thread each
    torch.set_num_threads(1)


def without_bf16(patch: pytest.MonkeyPatch) -> None:
    """As on a CPU without AVX-512: PyTorch knows of no bf16 arithmetic, and oneDNN refuses it."""
    real = torch.ops.mkldnn._reorder_convolution_weight

    def refusing(weight, *arguments):
        if weight.dtype == torch.bfloat16:
            raise RuntimeError("mkldnn_reorder_conv2d_weight: bf16 path needs the cpu support")
        return real(weight, *arguments)

    refusing.default = real.default  # for what counts the operations
    patch.setattr(torch.ops.mkldnn, "_reorder_convolution_weight", refusing)
    patch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)


@pytest.fixture(autouse=True, scope="session")
def _other_cpu():
    """With LGMNET_WITHOUT_BF16=1 the whole suite runs as on such a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("LGMNET_WITHOUT_BF16"):
            without_bf16(patch)
        yield


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("shared") and not reference_data():
        # CI sets this where the data must be there: a skipped golden test would go unnoticed.
        if os.environ.get("LGMNET_REQUIRE_SHARED"):
            pytest.fail("LGMNET_DATA does not name the reference data, which are required here")
        pytest.skip("needs the reference data; set LGMNET_DATA to their folder")


def pytest_collection_modifyitems(config, items):
    """Tests marked long run only where -m names the mark."""
    if "long" in config.getoption("markexpr"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def reference_data() -> Path | None:
    folder = Path(os.environ.get("LGMNET_DATA", "/nonexistent"))
    return folder if (folder / "reference").is_dir() else None


@pytest.fixture
def reference() -> Path:
    folder = reference_data()
    assert folder is not None, "mark the test with pytest.mark.shared"
    return folder / "reference"


@pytest.fixture(scope="session")
def brains() -> torch.Tensor:
    """The 50 brain images of ISTA-Net's MRI test: ``(50, 1, 256, 256)``, float64, in [0, 1]."""
    folder = reference_data()
    assert folder is not None, "mark the test with pytest.mark.shared"
    paths = sorted((folder / "mri/BrainImages_test").glob("*.png"))
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    return torch.from_numpy(np.stack(images)).double()[:, None] / 255


@pytest.fixture(autouse=True)
def _float32_on_the_gpu(request):
    """In tests marked gpu convolutions are in float32, as in the commands; PyTorch takes TF32."""
    with convolutions("fp32") if request.node.get_closest_marker("gpu") else nullcontext():
        yield


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def torchrun(script: Path | str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of the project as two processes on the CPU."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(PROJECT / script), "--device", "cpu",
         *map(str, arguments)],
        check=True, capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def without_device(text: str) -> str:
    """What a command prints after its first line, which names the device."""
    return re.sub(r"\Adevice: cpu \(.+\)\n", "", text)


@pytest.fixture
def weights(tmp_path):
    """A folder with weights of a tiny network that returns Φᵀy."""
    config = tiny_config(model={"phity_skip": True}, sampling={"phi_init": "orthonormal"})
    save_weights(tmp_path / "w" / "model.safetensors", build_model(config), config)
    return tmp_path / "w"


@pytest.fixture
def photo(tmp_path):
    """A grey image of 50 x 70 pixels."""
    cv2.imwrite(str(tmp_path / "photo.png"), smooth_image(50, 70))
    return tmp_path / "photo.png"


def smooth_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A uint8 image with structure at several scales, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (max(2, height // 16), max(2, width // 16)))
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + rng.normal(0, 4, (height, width)), 0, 255).astype(np.uint8)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Six grey images of different sizes, two in a subfolder."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for k, (height, width) in enumerate([(64, 96), (100, 64), (80, 80)] * 2):
        sub = "more/" if k > 3 else ""
        cv2.imwrite(str(folder / f"{sub}image{k}.png"), smooth_image(height, width, k))
    return folder


def tiny_config(folder: Path | str = "builtin", **changes: dict) -> Config:
    """An LGM-Net of a few thousand parameters on 32 x 32 crops."""
    tree: dict = {
        "model": {"name": "lgm_net", "D": 1, "dim": 2, "dimf": 2, "scales": 2},
        "sampling": {"ratio": 0.1},
        "data": {"train": [str(folder)], "crop_size": 32, "workers": 0},
        "training": {
            "epochs": 1, "steps_per_epoch": 6, "batch_size": 4, "rate": 1e-3, "log_every": 2,
            "schedule": "cosine",
        },
    }  # fmt: skip
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values}
    return config_from_dict(tree)


def assert_same_image(result: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-5 for images of the size of one; untrained networks make larger ones."""
    expected = expected.detach()
    tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)
