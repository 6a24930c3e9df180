"""What is computed in which precision, by the flags that cuDNN reads; no GPU is needed for that."""

import json
import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from lgmnet import metrics
from lgmnet.data import builtin
from lgmnet.data.color import luma
from lgmnet.data.images import read_pixels
from lgmnet.models import SensingModel
from lgmnet.runtime import Runtime
from lgmnet.speed import inference, precision
from lgmnet.speed.precision import computed_precision, convolutions, precision_note
from lgmnet.training import learner, loop, states
from lgmnet.weights import saved
from tests.conftest import PROJECT, assert_same_image, smooth_image, tiny_config
from tests.test_models import small_model
from tests.test_scripts import run_main

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONVOLUTIONS = (torch.conv2d, torch.conv_transpose2d, F.conv2d, F.conv_transpose2d)


class RoundedConvolutions(TorchFunctionMode):
    """Convolutions as TF32 computes them: what is multiplied has ``bits`` bits, sums are float32.

    Rounds to the nearest number, and counts the convolutions.
    """

    def __init__(self, bits: int = 10) -> None:
        super().__init__()
        self.dropped = 23 - bits
        self.count = 0

    def rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor.contiguous().view(torch.int32) + (1 << (self.dropped - 1))
        return (whole >> self.dropped << self.dropped).view(torch.float32)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in CONVOLUTIONS:
            self.count += 1
            args = (self.rounded(args[0]), self.rounded(args[1]), *args[2:])
        return function(*args, **(kwargs or {}))


def flags() -> tuple[bool, bool]:
    """TF32 in convolutions, and the search for the fastest algorithm."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark


@pytest.fixture
def gpu(monkeypatch):
    """Says what a GPU of some capability can do; nothing runs on it."""

    def of(capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: capability >= (8, 0))
        return CUDA

    return of


@pytest.mark.parametrize(
    ("capability", "computed"), [((7, 5), "fp32"), ((8, 0), "tf32"), ((9, 0), "tf32")]
)
def test_tf32_begins_with_ampere(gpu, capability, computed):
    device = gpu(capability)
    assert computed_precision("tf32", device) == computed
    expected = "" if computed == "tf32" else "this GPU has no TF32: tf32 is the same as fp32 here"
    assert precision_note("tf32", device) == expected


def test_on_a_cpu_tf32_is_fp32_and_a_note_says_so():
    assert computed_precision("tf32", CPU) == "fp32"
    assert precision_note("tf32", CPU) == "this CPU has no TF32: tf32 is the same as fp32 here"


@pytest.mark.parametrize("tf32", [True, False])
def test_flags_are_as_before_after_the_block_and_after_an_error(tf32, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    before = flags()
    with convolutions("tf32", fixed_size=True):
        assert flags() == (True, True)
        with convolutions("bf16"):
            assert flags() == (False, False)
        assert flags() == (True, True)
    assert flags() == before
    with pytest.raises(ValueError, match="wrong"), convolutions("tf32", fixed_size=True):
        raise ValueError("wrong")
    assert flags() == before


@pytest.mark.parametrize("asked", ["fp32", "tf32", "bf16"])
def test_steps_and_validation_of_a_run_have_their_own_flags(
    asked, image_folder, tmp_path, monkeypatch
):
    """Also the backward pass, which reads them when it runs."""
    seen: dict[str, set] = {"forward": set(), "backward": set(), "validation": set()}
    prepare, reconstruct = learner.prepare, SensingModel.reconstruct

    def watched(model, settings, here):
        def forward(module, inputs, output):
            if output.requires_grad:
                seen["forward"].add(flags())
                output.register_hook(backward)

        def backward(_):
            seen["backward"].add(flags())

        layer = next(m for m in model.network.modules() if isinstance(m, nn.Conv2d))
        layer.register_forward_hook(forward)
        return prepare(model, settings, here)

    def validated(self, measurement):
        seen["validation"].add(flags())
        return reconstruct(self, measurement)

    monkeypatch.setattr(learner, "prepare", watched)
    monkeypatch.setattr(SensingModel, "reconstruct", validated)
    held = tmp_path / "held"
    held.mkdir()
    cv2.imwrite(str(held / "v.png"), smooth_image(64, 64, 9))
    config = tiny_config(
        image_folder, data={"validation": str(held)}, training={"precision": asked}
    )
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as runtime.start does
    loop.train(config, tmp_path / "run", Runtime(CPU))
    step = {(asked == "tf32", True)}
    assert seen == {"forward": step, "backward": step, "validation": {(False, False)}}
    assert flags() == (False, False)


def test_a_run_in_tf32_on_a_cpu_learns_as_in_fp32_and_says_so(image_folder, tmp_path):
    learned = []
    for asked in ("fp32", "tf32"):
        config = tiny_config(image_folder, training={"precision": asked, "steps_per_epoch": 2})
        loop.train(config, tmp_path / asked, Runtime(CPU))
        learned.append(saved.Weights(tmp_path / asked / "last.safetensors").load())
    one, two = (model.state_dict() for model in learned)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert "precision: tf32" in (tmp_path / "tf32" / "config.yaml").read_text()
    assert "has no TF32" in (tmp_path / "tf32" / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("asked", "capable", "expected"),
    [("fp32", True, "fp32"), ("tf32", True, "tf32"), ("bf16", False, "bf16"),
     ("auto", True, "bf16"), ("auto", False, "fp32")],
)  # fmt: skip
def test_processes_agree_on_what_the_main_one_finds(asked, capable, expected, monkeypatch):
    config = tiny_config(training={"precision": asked})
    sent = []

    class Main(Runtime):
        def agree(self, value):
            sent.append(value)
            return float(value)

    class Other(Runtime):
        def agree(self, value):
            return float(sent[0])

    for process, here in ((Main(CPU), capable), (Other(CPU), not capable)):
        monkeypatch.setattr(precision, "has_bf16_arithmetic", lambda device, here=here: here)
        resolved = states.resolve_precision(config, process)
        assert resolved.training.precision == expected


@pytest.mark.parametrize("flag", [[], ["--fast"]])
def test_scores_in_tf32_are_not_mixed_with_others(
    flag, weights, photo, tmp_path, monkeypatch, capsys
):
    seen = []
    reconstruct = SensingModel.reconstruct

    def watched(self, measurement):
        seen.append(flags())
        return reconstruct(self, measurement)

    monkeypatch.setattr(SensingModel, "reconstruct", watched)
    base = [weights, "--data", photo, "--output", tmp_path / "r", "--device", "cpu", *flag]

    def score(*more):
        """The precision in metrics.json, in the file that is kept beside it, and what is warned."""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            assert run_main("test.py", [*base, *more], monkeypatch) == 0
        files = [tmp_path / "r" / name for name in ("metrics.json", "metrics.tf32.json")]
        found = [json.loads(f.read_text())["precision"] if f.exists() else None for f in files]
        return found, [str(w.message) for w in warned if "TF32:" in str(w.message)]

    assert score() == (["fp32", None], [])
    found, warned = score("--precision", "tf32")
    assert (found, len(warned)) == (["fp32", None], 1)  # computed in fp32, so it may join
    monkeypatch.setattr(precision, "has_tf32", lambda device: True)
    assert score("--precision", "tf32") == (["fp32", "tf32"], [])
    assert seen == [(False, False), (True, False), (True, False)]
    assert not torch.backends.cudnn.allow_tf32
    capsys.readouterr()


@pytest.mark.parametrize("asked", ["fp32", "tf32"])
def test_a_fast_model_for_a_gpu_is_channels_last_where_that_is_faster(asked, gpu, monkeypatch):
    """Made on the CPU as if it were on a GPU. In float32 without TF32 its kernels want NCHW."""

    def layout(device):
        monkeypatch.setattr(inference, "device_of", lambda model: device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = inference.optimize_for_inference(model, asked)
        kernels = [p for p in made.network.parameters() if p.ndim == 4 and min(p.shape[1:3]) > 1]
        assert_same_image(made(image).image, model(image).image)
        return {k.is_contiguous(memory_format=torch.channels_last) for k in kernels}

    model, image = small_model("lgm_net").eval(), torch.rand(1, 1, 64, 96)
    assert layout(CPU) == {True}
    assert layout(gpu((8, 0))) == {asked == "tf32"}
    assert layout(gpu((7, 5))) == {False}


def cut_out(name: str) -> np.ndarray:
    """128 x 128 pixels of a photograph that comes with the project."""
    return luma(read_pixels(builtin.paths((name,))[0]))[64:192, 128:256]


def test_tf32_in_convolutions_moves_psnr_by_less_than_a_hundredth():
    """Emulated; and Φ, a matrix product, does not change at all. Two bits would be too few."""
    model = saved.load("lgm_net_tiny_r0.25")
    model.operator = inference.optimize_for_inference(model).operator
    changes = []
    for name in ("astronaut.png", "coffee.png"):
        pixels = cut_out(name)
        image = torch.from_numpy(pixels.copy())[None, None].float() / 255

        def psnr(rebuilt, pixels=pixels):
            return metrics.score(rebuilt[0, 0].double().numpy() * 255, pixels).psnr

        y = model.measure(image)
        exact = psnr(model.reconstruct(y))
        with RoundedConvolutions() as tf32:
            assert torch.equal(model.measure(image), y)
            assert tf32.count == 0
            changes.append(psnr(model.reconstruct(y)) - exact)
        assert tf32.count > 50
        with RoundedConvolutions(bits=2):
            assert psnr(model.reconstruct(y)) - exact < -0.1
    assert 0 < max(map(abs, changes)) <= 0.01


def test_tests_marked_gpu_run_without_tf32(tmp_path):
    """The fixture of tests/conftest.py, in a pytest of its own that believes in a GPU."""
    (tmp_path / "conftest.py").write_text(
        "import torch\n"
        "pytest_plugins = ['tests.conftest']\n"
        "torch.cuda.is_available = lambda: True\n"
        "torch.backends.cudnn.allow_tf32 = True\n"
    )
    (tmp_path / "test_flag.py").write_text(
        "import pytest, torch\n"
        "@pytest.mark.gpu\n"
        "def test_marked():\n"
        "    assert not torch.backends.cudnn.allow_tf32\n"
        "def test_after():\n"
        "    assert torch.backends.cudnn.allow_tf32\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert "2 passed" in done.stdout, done.stdout
