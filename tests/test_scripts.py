"""The commands of README, run as a user runs them."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lgmnet.build import build_model
from lgmnet.commands import verify_run
from lgmnet.config import load_config
from lgmnet.data.images import read_pixels
from lgmnet.data.packed import PackedImages
from lgmnet.weights.saved import Weights, find_weights, save_weights
from tests.conftest import smooth_image, tiny_config, torchrun, without_device

PROJECT = Path(__file__).parents[1]


def command(*arguments, check=True, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=PROJECT, capture_output=True, text=True,
        timeout=120, check=check, **options,
    )  # fmt: skip


def test_measure_then_reconstruct_equals_test(weights, photo, tmp_path, monkeypatch):
    y, out = tmp_path / "y.safetensors", tmp_path / "out.png"
    base = ["--weights", weights, "--output"]
    assert run_main("scripts/measure.py", [photo, *base, y], monkeypatch) == 0
    assert run_main("scripts/reconstruct.py", [y, *base, out], monkeypatch) == 0
    command("test.py", weights, "--data", photo, "--output", tmp_path / "r", "--save-images",
            "--padding", "replicate")  # fmt: skip
    rebuilt = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    assert rebuilt.shape == (50, 70)
    saved = cv2.imread(str(tmp_path / "r" / "photo" / "photo.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(rebuilt, saved)
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert set(metrics["datasets"]["photo"]["images"]) == {"photo"}
    assert metrics["protocol"] == "paper"


def test_saved_images_have_no_seam_and_scores_stay_those_of_zeros(
    weights, photo, tmp_path, monkeypatch, capsys
):
    """The photograph has 50 x 70 pixels, and the blocks 32 x 32."""
    truth = cv2.imread(str(photo), cv2.IMREAD_UNCHANGED).astype(float)
    saved, psnr = {}, {}
    for name, options in (("plain", []), ("zeros", ["--padding", "zeros"]),
                          ("replicate", ["--padding", "replicate"])):  # fmt: skip
        out = tmp_path / name
        arguments = [weights, "--data", photo, "--output", out, "--save-images", *options]
        assert run_main("test.py", arguments, monkeypatch) == 0
        noted = "not in whole blocks: 1; saved with padding" in capsys.readouterr().out
        assert noted == (name == "plain")
        saved[name] = cv2.imread(str(out / "photo" / "photo.png"), cv2.IMREAD_UNCHANGED)
        scores = json.loads((out / "metrics.json").read_text())
        psnr[name] = scores["datasets"]["photo"]["psnr"]
        assert scores["padding"] == ("zeros" if name == "plain" else name)
    assert psnr["plain"] == psnr["zeros"] != psnr["replicate"]
    np.testing.assert_array_equal(saved["plain"], saved["replicate"])
    error = {name: np.square(image - truth)[:, -3:].mean() for name, image in saved.items()}
    assert error["plain"] < error["zeros"]


def test_two_folders_of_one_name_do_not_replace_each_other(weights, tmp_path, monkeypatch, capsys):
    for k, parent in enumerate(("a", "b")):
        (tmp_path / parent / "test").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / parent / "test" / "1.png"), smooth_image(32, 32, k))
    base = [weights, "--output", tmp_path / "r", "--data"]
    assert run_main("test.py", [*base, tmp_path / "a" / "test"], monkeypatch) == 0
    before = (tmp_path / "r" / "metrics.json").read_bytes()
    assert run_main("test.py", [*base, tmp_path / "b" / "test", "--fast"], monkeypatch) == 1
    assert "has scores of other images under the name 'test'; choose" in capsys.readouterr().err
    assert (tmp_path / "r" / "metrics.json").read_bytes() == before
    (tmp_path / "a").rename(tmp_path / "moved")  # the same images in another place
    assert run_main("test.py", [*base, tmp_path / "moved" / "test"], monkeypatch) == 0


def test_two_processes_score_as_one(weights, image_folder, tmp_path, monkeypatch):
    """Seven images, of different sizes, one of them in colour."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun does; other counts round otherwise
    cv2.imwrite(
        str(image_folder / "colour.png"), np.dstack([smooth_image(40, 64, k) for k in range(3)])
    )
    options = ["--data", image_folder, "--noise-std", "0.01", "--consistency"]
    one = command("test.py", weights, *options, "--output", tmp_path / "1")
    two = torchrun("test.py", weights, *options, "--output", tmp_path / "2", "--save-images")
    found = [json.loads((tmp_path / k / "metrics.json").read_text()) for k in ("1", "2")]
    for results in found:
        for image in results["datasets"]["images"]["images"].values():
            del image["seconds"]
    assert found[0] == found[1]
    assert next(iter(found[1]["datasets"]["images"]["images"])) == "colour"
    tables = [run.stdout.splitlines()[2].split("|")[:7] for run in (one, two)]
    assert tables[0] == tables[1]
    assert two.stdout.count("metrics.json") == 1
    assert two.stderr.count("device: cpu (") == two.stderr.count(", 2 processes\n") == 1
    assert len(list((tmp_path / "2" / "images").glob("*.png"))) == 7


def test_fast_and_in_strips_the_image_is_the_same(weights, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    y = tmp_path / "y.safetensors"
    base = ["--weights", weights, "--output"]
    assert run_main("scripts/measure.py", [photo, *base, y], monkeypatch) == 0
    images = []
    for flags in ([], ["--fast"], ["--fast", "--max-memory", "200MiB"]):
        out = tmp_path / f"{len(images)}.png"
        assert run_main("scripts/reconstruct.py", [y, *base, out, *flags], monkeypatch) == 0
        images.append(cv2.imread(str(out), cv2.IMREAD_UNCHANGED).astype(int))
    assert all(np.abs(image - images[0]).max() <= 1 for image in images)
    arguments = [weights, "--data", photo, "--output", tmp_path / "r", "--fast"]
    flags = ["--precision", "bf16", "--max-memory", "200MiB"]
    assert run_main("test.py", [*arguments, *flags], monkeypatch) == 0


def test_a_measurement_of_another_phi_is_refused(weights, photo, tmp_path, monkeypatch, capsys):
    config = tiny_config(sampling={"phi_init": "gaussian"})
    save_weights(tmp_path / "other" / "model.safetensors", build_model(config), config)
    y = tmp_path / "y.safetensors"
    measure = [photo, "--weights", weights, "--output", y]
    assert run_main("scripts/measure.py", measure, monkeypatch) == 0
    rebuild = [y, "--weights", tmp_path / "other", "--output", tmp_path / "out.png"]
    assert run_main("scripts/reconstruct.py", rebuild, monkeypatch) == 1
    assert "another Φ" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_an_unreadable_image_costs_its_own_score_alone(
    weights, image_folder, tmp_path, monkeypatch, capsys
):
    (image_folder / "zz.png").write_bytes(b"no image")
    arguments = [weights, "--data", image_folder, "--output", tmp_path / "r"]
    assert run_main("test.py", [*arguments, "--protocol", "paper", "ista33"], monkeypatch) == 1
    out, error = capsys.readouterr()
    assert out.count("| 6 of 7 |") == 2
    assert "test.py: images/zz is not scored: " in error
    for name in ("metrics.json", "metrics.ista33.json"):
        data = json.loads((tmp_path / "r" / name).read_text())["datasets"]["images"]
        assert (len(data["images"]), list(data["failed"])) == (6, ["zz"])


def test_reconstructions_are_not_saved_over_or_among_test_images(
    weights, image_folder, tmp_path, monkeypatch, capsys
):
    before = {path: path.read_bytes() for path in image_folder.rglob("*.png")}
    (tmp_path / "link").symlink_to(tmp_path)
    for output, where in (
        (image_folder.parent, "over"), (tmp_path / "link", "over"), (image_folder, "among")
    ):  # fmt: skip
        arguments = [weights, "--data", image_folder, "--output", output, "--save-images"]
        assert run_main("test.py", arguments, monkeypatch) == 1
        assert f"would write {where} the test images" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in image_folder.rglob("*.png")} == before
    assert not (tmp_path / "metrics.json").exists()


def test_images_of_an_array_file_are_scored_and_saved_by_their_names(
    weights, tmp_path, monkeypatch
):
    stack = np.stack([smooth_image(40, 70, k) for k in range(3)])
    np.savez_compressed(tmp_path / "scans.npz", counts=stack.astype(np.uint16), scale=255)
    arguments = [weights, "--data", tmp_path / "scans.npz", "--output", tmp_path / "r"]
    arguments += ["--save-images", "--padding", "crop"]

    assert run_main("test.py", arguments, monkeypatch) == 0
    names = [f"scans_00{k}" for k in range(3)]
    data = json.loads((tmp_path / "r/metrics.json").read_text())["datasets"]["scans"]
    assert list(data["images"]) == names
    for name in names:
        assert read_pixels(tmp_path / "r/scans" / f"{name}.png").shape == (32, 64)


def test_a_store_of_colour_is_packed_and_refused_by_an_operator_of_luma(
    tmp_path, monkeypatch, capsys
):
    for k in range(2):
        pixels = np.dstack([smooth_image(64, 64, 3 * k + c) for c in range(3)])
        cv2.imwrite(str(tmp_path / f"{k}.png"), pixels)
    store = tmp_path / "x.packed"
    pack = ["--pack", tmp_path, store, "--color", "color"]
    assert run_main("scripts/prepare_data.py", pack, monkeypatch) == 0
    assert PackedImages(store).read(0).shape == (64, 64, 3)
    arguments = ["configs/quickstart.yaml", f"data.train={store}", "data.color=color"]
    arguments += ["data.validation=''", "data.crop_size=32", "sampling.phi_init=xavier"]
    arguments += ["--device", "cpu", "--output", tmp_path / "run"]
    assert run_main("train.py", arguments, monkeypatch) == 1
    assert "data.color=color gives images of 3 channels" in capsys.readouterr().err


def test_without_memory_for_the_weights_there_is_advice(
    weights, photo, tmp_path, monkeypatch, capsys
):
    def full(*arguments):
        raise MemoryError

    y = tmp_path / "y.safetensors"
    measure = [photo, "--weights", weights, "--output", y]
    assert run_main("scripts/measure.py", measure, monkeypatch) == 0
    monkeypatch.setattr(Weights, "load", full)
    test = ["test.py", weights, "--data", photo, "--output", tmp_path]
    rebuild = ["scripts/reconstruct.py", y, "--weights", weights, "--output", tmp_path / "x.png"]
    for script, *arguments in (test, rebuild):
        assert run_main(script, arguments, monkeypatch) == 1
        assert "--fast --precision bf16" in capsys.readouterr().err


def run_main(script, arguments, monkeypatch):
    """Run a script's main() in this process: a second faster than a new one."""
    module = load_script(script)
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    return module.main()


def load_script(script):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(Path(script).stem + "_script", PROJECT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("test.py", ["nothing"], "there are no weights 'nothing'"),
        ("test.py", ["WEIGHTS", "--data", "Set99"], "there are no images 'Set99'"),
        ("test.py", ["WEIGHTS", "--protocol", "papers"], "did you mean 'paper'"),
        ("test.py", ["WEIGHTS", "--color", "hsv"], "expected one of luma, rgb"),
        ("test.py", ["WEIGHTS", "--precision", "bf16"], "bf16 needs --fast"),
        ("test.py", ["WEIGHTS", "--fast", "--precision", "fp16"], "one of fp32, tf32, bf16"),
        ("test.py", ["WEIGHTS", "--max-memory", "2"], "write a number and a unit"),
        ("test.py", ["WEIGHTS", "--max-memory", "1KiB"], "needs at least"),
        ("test.py", ["configs/fista.yaml", "--max-memory", "1GiB"], "needs the whole image"),
        ("train.py", ["configs/none.yaml"], "there is no config file"),
        ("train.py", ["configs/quickstart.yaml", "sampling.ratio=10"], "for 10 % of the pixels"),
        ("train.py", ["configs/quickstart.yaml", "sampling.ration=0.1"], "did you mean 'ratio'"),
        ("train.py", ["configs/quickstart.yaml", "data.train=none"], "there are no images 'none'"),
        ("train.py", ["configs/quickstart.yaml", "--resume", "--output", "none"], "no state"),
        ("scripts/measure.py", ["none.png", "--weights", "WEIGHTS", "--output", "y.safetensors"],
         "none.png"),
        ("scripts/reconstruct.py", ["none", "--weights", "WEIGHTS", "--output", "x.png"],
         "there is no measurement none"),
        ("test.py", ["WEIGHTS", "--adapters", "WEIGHTS/model.safetensors"], "lgmnet-adapters/1"),
        ("scripts/apply_adapters.py", ["none", "a.safetensors", "--output", "x"],
         "no weights 'none'"),
        ("scripts/measure_lorun.py", ["--gamma", "0"], "gamma is 0, which gives rank 0"),
        ("scripts/measure_lorun.py", ["--denoisers", "net"], "expected one of unet, transformer"),
        ("train.py", ["configs/lorun_unet.yaml", "lora.backbone=none", "data.train=builtin",
                      "data.validation=configs/validation/builtin.txt", "--output", "UNUSED"],
         "no weights 'none'"),
        ("train.py", ["configs/quickstart.yaml", "training.start=none"], "no weights 'none'"),
        ("train.py", ["configs/quickstart.yaml", "evaluation.protocol=papr"],
         "did you mean 'paper'"),
        ("train.py", ["configs/lorun_unet.yaml", "model.sharing=shared", "lora.backbone=WEIGHTS"],
         "start from those weights with training.start"),
        ("train.py", ["configs/quickstart.yaml", "training.l1_weight=-1"], "l1_weight is -1"),
        ("test.py", ["WEIGHTS", "--merge", "per_stage"], "needs --adapters"),
        ("test.py", ["WEIGHTS", "--adapters", "WEIGHTS/none.safetensors"], "there is no file"),
        ("scripts/export_weights.py", ["configs/fista.yaml", "--output", "UNUSED"],
         "contains no trained values"),
        ("scripts/export_weights.py", ["WEIGHTS", "--output", "UNUSED"], "log.jsonl; name a run"),
        ("test.py", ["WEIGHTS", "--device", "meta"], "expected auto, cpu, cuda"),
        ("test.py", ["WEIGHTS", "--device", "gpu"], "expected auto, cpu, cuda"),
        ("scripts/plot_runs.py", ["checkpoints/lgm_net_tiny_r0.10", "--output", "UNUSED/x.png",
                                  "--value", "loss", "--smooth", "10000"], "expected 1 to"),
        ("scripts/make_figure.py", ["--weights", "none"], "no weights 'none'"),
        ("scripts/import_weights.py", ["lgm_net", "none.pkl", "--output", "x"], "no file none.pkl"),
        ("scripts/import_weights.py", ["fista_net", "none.pkl", "--output", "x"],
         "--step gradient, v - μΦᵀ(Φv - y), or preconditioned"),
        ("scripts/import_weights.py", ["fista_net", "none.pkl", "--output", "x", "--step",
                                       "preconditioned"], "only --step gradient can be used here"),
        ("scripts/import_weights.py", ["prl", "none.pkl", "--output", "x", "--step", "gradient"],
         "--step is for fista_net"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(script, arguments, message, weights, monkeypatch, capsys):
    monkeypatch.chdir(PROJECT)
    arguments = [a.replace("WEIGHTS", str(weights)) for a in arguments]
    arguments = [a.replace("UNUSED", str(weights.parent / "unused")) for a in arguments]
    assert run_main(script, arguments, monkeypatch) == 1
    error = capsys.readouterr().err.rpartition("\r")[2]  # after a progress bar, if there was one
    error = without_device(error)
    assert message in error
    assert error.startswith(Path(script).name)
    assert error.count("\n") == 1


def test_a_run_that_is_there_is_not_overwritten(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_bytes(b"")
    monkeypatch.chdir(PROJECT)
    arguments = ["configs/quickstart.yaml", "--output", tmp_path / "run"]
    assert run_main("train.py", arguments, monkeypatch) == 1
    assert "add --resume" in capsys.readouterr().err


def test_interrupting_a_run_saves_it(tmp_path, image_folder):
    config = tiny_config(image_folder, data={"workers": 1}, training={"epochs": 100000})
    (tmp_path / "config.yaml").write_text(config.as_yaml())
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "train.py", str(tmp_path / "config.yaml"), "--output", str(run)],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    log = run / "log.jsonl"
    try:
        while not (log.exists() and '"train"' in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: the loader process gets it too
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGINT, err
    assert "--resume" in out
    assert "Traceback" not in err
    assert torch.load(run / "last.pt", weights_only=True)["step"] >= 2


def test_dry_run_prints_the_plan_and_trains_nothing(tmp_path):
    done = command("train.py", "configs/quickstart.yaml", "--dry-run", "--output", tmp_path / "run")
    assert "ratio: 0.1" in done.stdout
    assert "steps/s" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.shared
def test_ista_net_plus_is_imported_with_its_matrices(reference, tmp_path, monkeypatch, capsys):
    folder = reference / "istanet"
    model = folder / "model" / "CS_ISTA_Net_plus_layer_9_group_1_ratio_25_lr_0.0001"
    file = model / "net_params_200.pkl"
    phi = folder / "sampling_matrix" / "phi_0_25_1089.mat"
    start = folder / "sampling_matrix" / "Initialization_Matrix_25.mat"
    script = "scripts/import_weights.py"
    base = ["ista_net_plus", file, "--output", tmp_path / "w"]
    assert run_main(script, base, monkeypatch) == 1
    assert "give --matrix phi_0_*.mat and --init" in capsys.readouterr().err
    other = folder / "sampling_matrix" / "Initialization_Matrix_10.mat"
    assert run_main(script, [*base, "--matrix", phi, "--init", other], monkeypatch) == 1
    assert "two files of the same ratio" in capsys.readouterr().err
    assert run_main(script, [*base, "--matrix", phi, "--init", start], monkeypatch) == 0
    assert "stages = 9" in (out := capsys.readouterr().out)
    assert "272 numbers per 33 x 33 block, ratio 0.25" in out
    config = Weights(tmp_path / "w" / "model.safetensors").config
    assert (config.evaluation.protocol, config.sampling.rounding) == ("ista33", "table33")


def test_a_foreign_file_that_is_not_complete_is_explained(tmp_path, monkeypatch, capsys):
    state = {"w_theta": torch.zeros(1), "bb.conv_D.weight": torch.zeros(8, 1, 3, 3)}
    np.save(tmp_path / "phi.npy", np.zeros((10, 64), np.float32))
    base = ["--matrix", tmp_path / "phi.npy", "--output", tmp_path / "w", "--step", "gradient"]
    for missing in ({}, {"b_theta": torch.zeros(3)}):
        torch.save(state | missing, tmp_path / "x.pkl")
        arguments = ["fista_net", tmp_path / "x.pkl", *base]
        assert run_main("scripts/import_weights.py", arguments, monkeypatch) == 1
        assert "x.pkl is not a complete fista_net file (KeyError" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.shared
def test_fista_net_is_imported_where_its_step_is_named(reference, tmp_path, monkeypatch, capsys):
    folder = reference / "fista_net"
    np.save(tmp_path / "phi.npy", np.load(folder / "fista_net_m109_K7_io.npz")["phi"])
    file = folder / "fista_net_m109_K7.pkl"
    arguments = ["fista_net", file, "--matrix", tmp_path / "phi.npy", "--output", tmp_path / "w"]
    script = "scripts/import_weights.py"
    assert run_main(script, [*arguments, "--step", "gradient"], monkeypatch) == 0
    assert "stages = 7" in capsys.readouterr().out
    assert Weights(tmp_path / "w" / "model.safetensors").config.sampling.rounding == "table33"


@pytest.mark.shared
def test_published_weights_are_imported(reference, tmp_path, monkeypatch, capsys):
    def imported(source, name):
        """The exit status and what is printed."""
        arguments = ["lgm_net", source, "--output", tmp_path / name]
        status = run_main("scripts/import_weights.py", arguments, monkeypatch)
        return status, "".join(capsys.readouterr())

    source = reference / "lgmnet" / "lgmnet_r010_D1_dim4.pkl"
    status, text = imported(source, "w")
    assert status == 0
    assert "D = 1, dim = 4, dimf = 4" in text
    assert "ratio 0.1" in text
    weights = Weights(tmp_path / "w" / "model.safetensors")
    assert weights.config == load_config(tmp_path / "w" / "config.yaml")
    claiming = tmp_path / "ratio_0.10_D_4_dim_4" / "net_params_best.pkl"
    claiming.parent.mkdir()
    shutil.copy(source, claiming)
    _, text = imported(claiming, "w2")
    assert "the path has D = 4, but the tensors have 1" in text
    assert "the path has dim" not in text
    status, text = imported(reference / "prl" / "prl_r010_N1_f4.pkl", "x")
    assert status == 1
    assert "not a weights file of LGM-Net" in text
    assert "looks like one of prl" in text
    assert not (tmp_path / "x").exists()


def test_curves_of_runs_are_drawn_phase_after_phase(tmp_path, monkeypatch, capsys):
    for folder in (tmp_path / "run", tmp_path / "run" / "backbone"):
        folder.mkdir()
        lines = [{"step": s, "kind": "train", "mse": 1 / s} for s in (2, 4)]
        (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    output = ["--output", tmp_path / "c.png"]
    assert run_main("scripts/plot_runs.py", [tmp_path / "run", *output], monkeypatch) == 0
    assert cv2.imread(str(tmp_path / "c.png")).std() > 0
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    import plot_runs

    assert plot_runs.curve(tmp_path / "run", "train", "mse").tolist() == [
        [2, 4, 6, 8], [0.5, 0.25, 0.5, 0.25],
    ]  # fmt: skip
    wrong = [tmp_path / "run", *output, "--value", "psnr"]
    assert run_main("scripts/plot_runs.py", wrong, monkeypatch) == 1
    assert "has no 'psnr' of kind 'train' (it has step, kind, mse)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.shared
def test_verify_passes_and_notices_a_wrong_value(monkeypatch, capsys):
    monkeypatch.setattr(verify_run, "RATIOS", (10,))
    monkeypatch.setitem(verify_run.GOLDEN_PSNR, "border4", (26.55, 32.41))
    assert run_main("scripts/verify.py", ["--device", "cpu"], monkeypatch) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if "FAIL" in line]
    assert len(failed) == 1
    assert "border4" in failed[0]
    assert sum("pass" in line for line in lines) == 8


@pytest.mark.slow
def test_the_first_run_on_a_gpu_is_rehearsed_on_a_cpu(tmp_path):
    done = subprocess.run(
        ["bash", "scripts/first_gpu_run.sh"], cwd=PROJECT, capture_output=True, text=True,
        timeout=600, check=False,
        env={**os.environ, "DEVICE": "cpu", "OUT": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    report = (tmp_path / "report.md").read_text()
    assert done.returncode == 0, done.stderr
    sections = re.split(r"\n### .*\n", report)[1:]
    assert len(sections) == 8
    assert all(section.strip().startswith("Expected: ") for section in sections)
    assert "exit status 143" in report
    assert "stopped by signal 15" in report
    assert "Error" not in report
    whole, parts = re.findall(r"^(?:whole|parts)\n((?: +step.*\n)+)", report, re.M)
    assert whole.split("loss")[-1][:5] == parts.split("loss")[-1][:5]


@pytest.mark.parametrize(
    ("config", "channels", "options", "start"),
    [
        ("configs/sr_bicubic.yaml", 3, ["--at", "x3_k4"], "y, enlarged"),
        ("configs/fista.yaml", 1, [], "Φᵀy, rescaled"),
    ],
)
def test_make_figure_draws_a_part_of_an_image(config, channels, options, start, tmp_path):
    """Truth, start, reconstruction and error, in colours if the operator measures them."""
    colours = np.dstack([smooth_image(50, 70, k) for k in range(3)])
    cv2.imwrite(str(tmp_path / "photo.png"), colours)
    script = load_script("scripts/make_figure.py")
    model = find_weights(PROJECT / config).load(options[-1] if options else None)
    truth, first, last = script.columns(model, colours)
    shape = (48, 69, 3) if channels == 3 else (50, 70)
    assert truth.shape == first.shape == last.shape == shape
    if channels == 3:
        assert np.array_equal(truth, colours[:48, :69, ::-1])  # RGB
        assert len(np.unique(first[:3, :3, 0])) == 1  # enlarged
    axes = []
    output = tmp_path / "figure.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "write_figure", lambda _, figure, dpi: axes.extend(figure.axes))
        arguments = ["--weights", PROJECT / config, "--images", tmp_path / "photo.png", *options]
        more = ["--region", "4,8,20", "--error", "--output", output]
        patch.setattr(sys, "argv", ["make_figure.py", *map(str, [*arguments, *more])])
        assert script.main() == 0
    titles = [axis.get_title() for axis in axes]
    assert titles[0] == "photo"
    assert titles[1].startswith(start)
    assert titles[3] == "error, white = 0.1"
    parts = [np.asarray(axis.images[0].get_array()) for axis in axes]
    assert np.array_equal(parts[0], truth[4:24, 8:28].astype(np.uint8))
    difference = np.abs(np.clip(last, 0, 255) - truth)[4:24, 8:28]
    expected = difference.max(axis=2) if channels == 3 else difference
    np.testing.assert_allclose(parts[3], expected)


def test_a_region_outside_the_image_is_refused(tmp_path, monkeypatch, capsys):
    cv2.imwrite(str(tmp_path / "photo.png"), smooth_image(50, 70))
    arguments = ["--images", tmp_path / "photo.png", "--region", "40,0,20"]
    assert run_main("scripts/make_figure.py", arguments, monkeypatch) == 1
    assert "outside the shown rows" in capsys.readouterr().err
