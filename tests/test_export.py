"""Models for programs without this package: torch.export, its .pt2 file, and ONNX."""

import pickle
import subprocess
import sys

import pytest
import torch
from torch.export import Dim

from lgmnet.build import build_model
from lgmnet.models import Reconstruction
from lgmnet.weights import export
from lgmnet.weights.export import ExportError, export_model
from lgmnet.weights.saved import save_weights
from tests.conftest import tiny_config
from tests.test_models import SMALL, small_model
from tests.test_scripts import run_main

# Smaller than in test_models: tracing takes time with every operation.
SMALLER = {
    "lgm_net": {"D": 1, "dim": 2, "dimf": 2, "scales": 2, "mid_factor": 1},
    "ista_net_plus": {"stages": 1, "channels": 4},
    "lorun": {"stages": 1, "denoiser": "transformer"},
}


@pytest.fixture(params=SMALLER)
def model(request, monkeypatch):
    monkeypatch.setitem(SMALL, request.param, SMALLER[request.param])
    return small_model(request.param).eval()


@torch.no_grad()
def test_torch_export_takes_a_model_as_it_is(model):
    """For any number of images, and of blocks from two on."""
    side = model.multiple
    sizes = ({0: Dim("batch"), 2: side * Dim("rows"), 3: side * Dim("columns")},)
    example = torch.rand(2, 1, 2 * side, 3 * side)
    program = torch.export.export(model, (example,), dynamic_shapes=sizes).module()
    for shape in ((1, 1, 4 * side, 2 * side), (3, 1, 2 * side, 5 * side)):
        image = torch.rand(shape)
        torch.testing.assert_close(program(image), model(image), rtol=0, atol=1e-6)


def test_a_reconstruction_can_be_pickled():
    """A worker of torch.multiprocessing sends it so."""
    rebuilt = pickle.loads(pickle.dumps(Reconstruction(torch.ones(1, 1, 2, 2))))
    assert torch.equal(rebuilt.image, torch.ones(1, 1, 2, 2))
    assert rebuilt.penalties == {}


USE = """
import sys, torch
sys.modules["lgmnet"] = None  # cannot be imported
program = torch.export.load(sys.argv[1]).module()
given, expected = torch.load(sys.argv[2])
print(float((program(given) - expected).abs().max()))
"""


@pytest.mark.slow
def test_a_pt2_file_needs_no_lgmnet(tmp_path, monkeypatch, capsys):
    config = tiny_config(model={"scales": 1}, sampling={"phi_init": "orthonormal"})
    model = build_model(config).eval()
    save_weights(tmp_path / "w" / "model.safetensors", model, config)
    arguments = [tmp_path / "w", "--output", tmp_path / "model.pt2"]
    assert run_main("scripts/export_model.py", arguments, monkeypatch) == 0
    assert "measurement -> image" in capsys.readouterr().out
    y = model.measure(torch.rand(3, 1, 32, 64)).detach()
    torch.save((y, model.reconstruct(y)), tmp_path / "case.pt")
    run = subprocess.run(
        [sys.executable, "-c", USE, tmp_path / "model.pt2", tmp_path / "case.pt"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(run.stdout) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("from_image", [False, True])
def test_an_onnx_file_gives_the_numbers_of_the_model(tmp_path, from_image):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = build_model(
        tiny_config(sampling={"phi_init": "orthonormal"}, model={"scales": 1})
    ).eval()
    export_model(model, tmp_path / "model.onnx", from_image)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    image = torch.rand(3, 1, 128, 64)
    given = image if from_image else model.measure(image).detach()
    (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(found), model(image).image.detach(), rtol=0, atol=1e-4
    )


def test_what_gives_other_numbers_is_not_written(tmp_path, monkeypatch):
    def wrong(program):
        return b"", lambda given: program.module()(given) + 1e-3

    monkeypatch.setattr(export, "program_bytes", wrong)
    model = build_model(tiny_config(sampling={"phi_init": "orthonormal"}, model={"scales": 1}))
    with pytest.raises(ExportError, match="differs by 1.0e-03 from the model"):
        export_model(model, tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/fista.yaml", "--output", "x.pt2"], "contains no trained values"),
        (["lgm_net_tiny_r0.10", "--output", "x.bin"], "end with .pt2 or .onnx"),
    ],
)
def test_mistakes_get_one_line(arguments, message, monkeypatch, capsys):
    assert run_main("scripts/export_model.py", arguments, monkeypatch) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
