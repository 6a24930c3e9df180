"""How runs end and go on: signals at every moment, ruined weights, lost processes, two at once."""

import json
import multiprocessing
import os
import signal
import time

import cv2
import pytest
import torch

from lgmnet import runtime
from lgmnet.config import ConfigError, config_from_dict
from lgmnet.console import Console
from lgmnet.costs.preflight import preflight
from lgmnet.data.crops import DeviceCrops
from lgmnet.runtime import Runtime
from lgmnet.speed import memory, precision
from lgmnet.training import gradients, saver, states
from lgmnet.training.loop import train
from lgmnet.training.saver import NonFiniteLoss
from lgmnet.weights import files, saved
from tests.conftest import smooth_image, tiny_config
from tests.test_training import final, records, train_steps

CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def held(tmp_path):
    """A folder with one validation image."""
    folder = tmp_path / "held"
    folder.mkdir()
    cv2.imwrite(str(folder / "held.png"), smooth_image(64, 64, 9))
    return folder


def stop_in(module, name, monkeypatch, when=lambda *arguments: True):
    """Send SIGTERM when a function is called."""
    original = getattr(module, name)

    def stopping(*arguments):
        if when(*arguments):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(module, name, stopping)


def test_a_run_stopped_in_its_last_step_is_finished_by_resuming(
    image_folder, tmp_path, monkeypatch
):
    config = tiny_config(image_folder, training={"ema": 0.9})
    train(config, tmp_path / "whole", CPU)
    assert train_steps(config, tmp_path / "run", 6, monkeypatch) == signal.SIGTERM
    assert not (tmp_path / "run" / "last.safetensors").exists()
    assert train(config, tmp_path / "run", CPU, resume=True) == 0
    whole, run = final(tmp_path / "whole"), final(tmp_path / "run")
    assert all(torch.equal(whole[key], run[key]) for key in whole)
    with pytest.raises(files.CheckpointError, match=r"nothing to resume.*python test\.py"):
        train(config, tmp_path / "run", CPU, resume=True)


@pytest.mark.parametrize("every", [0, 3])
def test_a_run_stopped_in_its_last_validation_is_finished_by_resuming(
    image_folder, held, tmp_path, monkeypatch, every
):
    config = tiny_config(
        image_folder, data={"validation": str(held)}, training={"validate_every": every}
    )
    with monkeypatch.context() as patch:
        stop_in(saver, "validate", patch, lambda *_: state_is_at(tmp_path / "run", every))
        assert train(config, tmp_path / "run", CPU) == signal.SIGTERM
    assert not (tmp_path / "run" / "last.safetensors").exists()
    assert train(config, tmp_path / "run", CPU, resume=True) == 0
    steps = [record["step"] for record in records(tmp_path / "run", "validation")]
    assert steps == ([3, 6] if every else [6])
    assert (tmp_path / "run" / "best.safetensors").exists()
    assert states.finished_step(tmp_path / "run") == 6


def test_a_run_stopped_in_a_validation_on_the_way_repeats_it(
    image_folder, held, tmp_path, monkeypatch
):
    settings = {"validate_every": 2}
    config = tiny_config(image_folder, data={"validation": str(held)}, training=settings)
    train(config, tmp_path / "whole", CPU)
    with monkeypatch.context() as patch:
        stop_in(saver, "validate", patch)
        assert train(config, tmp_path / "run", CPU) == signal.SIGTERM
    state = torch.load(tmp_path / "run" / "last.pt")
    assert (state["step"], state["validated"]) == (2, 0)
    train(config, tmp_path / "run", CPU, resume=True)
    whole, run = (
        [(r["step"], r["psnr"]) for r in records(tmp_path / name, "validation")]
        for name in ("whole", "run")
    )
    assert run == whole


def state_is_at(folder, step):
    """Whether the last validation has come: the state is that of ``step``, or there is none."""
    path = folder / "last.pt"
    return (torch.load(path)["step"] if path.exists() else 0) == step


def test_a_signal_while_the_last_files_are_written_is_not_swallowed(
    image_folder, tmp_path, monkeypatch
):
    config = tiny_config(image_folder, training={"ema": 0.9})
    stop_in(saved, "save_weights", monkeypatch)
    assert train(config, tmp_path / "run", CPU) == signal.SIGTERM
    assert states.finished_step(tmp_path / "run") == 6


def test_a_run_killed_before_its_last_file_is_finished_by_resuming(
    image_folder, tmp_path, monkeypatch
):
    config = tiny_config(image_folder, training={"ema": 0.9})
    original = saved.save_weights

    def killed(path, *arguments):
        if path.name == "last.safetensors":
            raise KeyboardInterrupt
        original(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(saved, "save_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run", CPU)
    assert train(config, tmp_path / "run", CPU, resume=True) == 0
    assert states.finished_step(tmp_path / "run") == 6


def test_a_longer_run_killed_at_its_end_is_not_taken_for_the_shorter_one(
    image_folder, tmp_path, monkeypatch
):
    train(tiny_config(image_folder), tmp_path / "run", CPU)
    longer = tiny_config(image_folder, training={"epochs": 2})
    with monkeypatch.context() as patch:
        stop_in(gradients, "backward", patch)
        train(longer, tmp_path / "run", CPU, resume=True)
    assert train_steps(longer, tmp_path / "run", 5, monkeypatch, resume=True) == signal.SIGTERM
    assert states.finished_step(tmp_path / "run") == 6  # of the shorter run
    assert train(longer, tmp_path / "run", CPU, resume=True) == 0
    assert states.finished_step(tmp_path / "run") == 12


def test_weights_without_numbers_are_never_written(image_folder, held, tmp_path):
    """One step at a rate beyond float32: its loss was good, and its weights are not."""
    ruinous = {"rate": 1e39, "steps_per_epoch": 1, "schedule": "constant"}
    config = tiny_config(image_folder, data={"validation": str(held)}, training=ruinous)
    with pytest.raises(NonFiniteLoss, match="after step 1 .* is not finite; no state was saved"):
        train(config, tmp_path / "run", CPU)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_good_state_stays_and_is_named(image_folder, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train_steps(tiny_config(image_folder), folder, 2, monkeypatch)
    before = (folder / "last.pt").read_bytes()
    config = tiny_config(image_folder, training={"rate": 1e39, "schedule": "constant"})
    with pytest.raises(NonFiniteLoss, match=r"step 4: loss nan.*good state is .*pt, of step 2"):
        train(config, folder, CPU, resume=True)
    assert (folder / "last.pt").read_bytes() == before


def test_a_state_that_the_next_step_ruins_is_good(image_folder, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train_steps(tiny_config(image_folder), folder, 2, monkeypatch)
    ruinous = {"rate": 1e39, "schedule": "constant", "validate_every": 1, "log_every": 1}
    with pytest.raises(NonFiniteLoss, match=r"after step 3 .*good state is .*pt, of step 2"):
        train(tiny_config(image_folder, training=ruinous), folder, CPU, resume=True)


def test_a_state_whose_weights_are_ruined_is_not_called_good(image_folder, tmp_path):
    settings = {"rate": 1e30, "schedule": "constant", "validate_every": 1, "log_every": 1}
    with pytest.raises(NonFiniteLoss, match=r"step 2: loss .*ruined already: .*start again"):
        train(tiny_config(image_folder, training=settings), tmp_path / "run", CPU)


def test_weights_files_refuse_what_is_no_number(tmp_path):
    from tests.test_models import small_model

    config, model = tiny_config(), small_model("lgm_net")
    saved.save_weights(tmp_path / "x.safetensors", model, config)
    before = (tmp_path / "x.safetensors").read_bytes()
    with torch.no_grad():
        next(model.network.parameters()).view(-1)[0] = torch.inf
    with pytest.raises(files.CheckpointError, match=r"network\..* contains NaN or infinity"):
        saved.save_weights(tmp_path / "x.safetensors", model, config)
    assert (tmp_path / "x.safetensors").read_bytes() == before


def test_another_validation_set_begins_its_own_best(image_folder, held, tmp_path, monkeypatch):
    dark = tmp_path / "dark"  # which this network finds harder
    dark.mkdir()
    cv2.imwrite(str(dark / "held.png"), smooth_image(64, 64, 9) // 200)
    settings = {"validate_every": 2}
    config = tiny_config(image_folder, data={"validation": str(held)}, training=settings)
    train_steps(config, tmp_path / "run", 4, monkeypatch)
    best = records(tmp_path / "run", "validation")[0]["psnr"]
    config = tiny_config(image_folder, data={"validation": str(dark)}, training=settings)
    train(config, tmp_path / "run", CPU, resume=True)
    assert records(tmp_path / "run", "validation")[-1]["psnr"] < best
    weights = saved.Weights(tmp_path / "run" / "best.safetensors")
    assert weights.config.data.validation == str(dark)
    before = saved.Weights(tmp_path / "run" / "best_before.safetensors")
    assert before.config.data.validation == str(held)
    assert "the best begins anew" in records(tmp_path / "run", "note")[0]["text"]


def test_images_without_a_psnr_choose_no_best(image_folder, held, tmp_path):
    """ISTA-Net gives a black image back exactly."""
    cv2.imwrite(str(held / "held.png"), smooth_image(64, 64) * 0)
    tree = tiny_config(image_folder, data={"validation": str(held)}).as_dict()
    config = config_from_dict({**tree, "model": {"name": "ista_net", "stages": 1}})
    train(config, tmp_path / "run", CPU)
    assert records(tmp_path / "run", "validation")[0]["psnr"] is None
    assert saved.find_weights(tmp_path / "run").path.name == "last.safetensors"


def test_steps_after_the_state_are_logged_once(image_folder, tmp_path, monkeypatch):
    """As after SIGKILL: the log knows more than the state."""
    folder = tmp_path / "run"
    train_steps(tiny_config(image_folder), folder, 3, monkeypatch)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "kind": "train", "loss": 1.0}\n{"step": 6, "ki')
    train(tiny_config(image_folder), folder, CPU, resume=True)
    assert [record["step"] for record in records(folder, "train")] == [2, 4, 6]
    assert all(record["loss"] != 1.0 for record in records(folder, "train"))


def test_an_error_in_a_step_keeps_those_before(image_folder, tmp_path, monkeypatch):
    config = tiny_config(image_folder)
    original, calls = gradients.backward, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("a bad moment")
        return original(*arguments)

    train(config, tmp_path / "whole", CPU)
    with monkeypatch.context() as patch:
        patch.setattr(gradients, "backward", failing)
        with pytest.raises(RuntimeError, match="a bad moment"):
            train(config, tmp_path / "run", CPU)
    assert torch.load(tmp_path / "run" / "last.pt")["step"] == 3
    train(config, tmp_path / "run", CPU, resume=True)
    whole, run = final(tmp_path / "whole"), final(tmp_path / "run")
    assert all(torch.equal(whole[key], run[key]) for key in whole)


def test_a_killed_loader_process_ends_the_run_with_its_state(image_folder, tmp_path, monkeypatch):
    config = tiny_config(image_folder, data={"workers": 2}, training={"steps_per_epoch": 1000})
    original, calls = gradients.backward, []

    def killing(*arguments):
        calls.append(1)
        if len(calls) == 3:
            multiprocessing.active_children()[0].kill()
            time.sleep(0.5)  # the signal of its death arrives
        return original(*arguments)

    monkeypatch.setattr(gradients, "backward", killing)
    with pytest.raises(RuntimeError, match="DataLoader worker") as raised:
        train(config, tmp_path / "run", CPU)
    assert "lower data.workers" in memory.explain(raised.value)
    assert torch.load(tmp_path / "run" / "last.pt")["step"] == 2


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_a_closed_terminal_and_the_warning_of_a_queue_save_the_run(
    image_folder, tmp_path, monkeypatch, name
):
    config, number = tiny_config(image_folder), getattr(signal, name)
    original, calls = gradients.backward, []

    def warned(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return original(*arguments)

    train(config, tmp_path / "whole", CPU)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored
    try:
        with monkeypatch.context() as patch:
            patch.setattr(gradients, "backward", warned)
            assert train(config, tmp_path / "run", CPU) == number
    finally:
        signal.signal(number, before)
    assert torch.load(tmp_path / "run" / "last.pt")["step"] == 3
    train(config, tmp_path / "run", CPU, resume=True)
    whole, run = final(tmp_path / "whole"), final(tmp_path / "run")
    assert all(torch.equal(whole[key], run[key]) for key in whole)


def test_a_run_under_nohup_does_not_hear_of_the_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with runtime.StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_stops_at_once(monkeypatch, capfd):
    """Not an echo of the first, as torchrun sends it."""
    with runtime.StopSignal() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        assert capfd.readouterr().err.count("press Ctrl-C again to stop at once") == 1
        monkeypatch.setattr(runtime, "REPEATED", 0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_leftovers_of_a_killed_save_are_removed_at_the_next_start(
    image_folder, tmp_path, monkeypatch
):
    config, folder = tiny_config(image_folder), tmp_path / "run"
    train_steps(config, folder, 2, monkeypatch)
    (folder / ".last.pt.0123abcd").write_bytes(b"half a state")
    train(config, folder, CPU, resume=True)
    assert not (folder / ".last.pt.0123abcd").exists()


def test_resuming_says_that_images_or_code_are_others(image_folder, tmp_path, monkeypatch):
    config, folder = tiny_config(image_folder), tmp_path / "run"
    train_steps(config, folder, 2, monkeypatch)
    cv2.imwrite(str(image_folder / "image0.png"), smooth_image(64, 96, 77))  # of the same size
    monkeypatch.setattr("lgmnet.training.log.provenance", lambda: {"commit": "another"})
    train(config, folder, CPU, resume=True)
    notes = [record["text"] for record in records(folder, "note")]
    assert any("the training images are others now" in note for note in notes)
    [resumed] = records(folder, "resume")
    assert any(c.startswith("commit ") and c.endswith("-> another") for c in resumed["changed"])


def test_resuming_the_same_says_nothing(image_folder, tmp_path, monkeypatch):
    config, folder = tiny_config(image_folder), tmp_path / "run"
    train_steps(config, folder, 2, monkeypatch)
    train(config, folder, CPU, resume=True)
    assert not records(folder, "note")
    assert records(folder, "resume")[0]["changed"] == []


def test_a_state_of_an_older_version_is_resumed_in_silence(image_folder, tmp_path, monkeypatch):
    config, folder = tiny_config(image_folder), tmp_path / "run"
    train_steps(config, folder, 2, monkeypatch)
    state = torch.load(folder / "last.pt")
    for key in ("training_sha256", "provenance"):
        del state[key]
    torch.save(state, folder / "last.pt")
    train(config, folder, CPU, resume=True)
    assert not records(folder, "note")


def test_a_lock_does_not_outlive_its_process_in_a_loader(tmp_path):
    """A forked process has the file of the lock, and lives a little longer than a killed run."""
    reader, writer = os.pipe()
    with runtime.exclusive(tmp_path / "run", CPU):
        child = os.fork()
        if not child:  # as a loader process
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        # As at a SIGKILL of this process, the system closes its file without unlocking it.
    try:
        with runtime.exclusive(tmp_path / "run", CPU):
            pass
    finally:
        os.write(writer, b"x")
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def test_a_folder_whose_name_weights_cannot_have_is_refused_before_the_work(tmp_path):
    with (
        pytest.raises(ValueError, match=r"run folder .*\\udcff is not UTF-8"),
        runtime.exclusive(tmp_path / os.fsdecode(b"run\xff"), CPU),
    ):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def unknown(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unknown)
    with runtime.exclusive(tmp_path / "run", CPU):
        assert "cannot be locked" in capsys.readouterr().out


def test_two_runs_do_not_share_a_folder(tmp_path):
    with (
        runtime.exclusive(tmp_path / "run", CPU),
        pytest.raises(ValueError, match="another process is training in"),
        runtime.exclusive(tmp_path / "run", CPU),
    ):
        pass
    assert not (tmp_path / "run").exists()  # nothing was written
    with runtime.exclusive(tmp_path / "run", CPU):  # free again
        (tmp_path / "run" / "log.jsonl").touch()
    assert (tmp_path / "run" / "log.jsonl").exists()


def test_a_run_outlives_the_reader_of_its_lines():
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    os.close(reader)
    console = Console(stream)
    for _ in range(2):
        console.write("nobody reads this\n")
        console.flush()
    stream.close()


@pytest.mark.parametrize(("capable", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_resolved_once(
    image_folder, tmp_path, monkeypatch, capsys, capable, expected
):
    config = tiny_config(image_folder, training={"precision": "auto"})
    monkeypatch.setattr(precision, "has_bf16_arithmetic", lambda device: capable)
    monkeypatch.setattr("lgmnet.costs.preflight.SPEED_SECONDS", 0.1)
    preflight(config, CPU)
    assert f"precision         {expected} (auto, on this CPU)" in capsys.readouterr().out
    train_steps(config, tmp_path / "run", 2, monkeypatch)
    monkeypatch.setattr(precision, "has_bf16_arithmetic", lambda device: not capable)
    train(config, tmp_path / "run", CPU, resume=True)
    assert saved.find_weights(tmp_path / "run").config.training.precision == expected
    assert f"precision: {expected}" in (tmp_path / "run" / "config.yaml").read_text()
    assert [r["precision"] for r in records(tmp_path / "run", "start")] == [expected] * 2
    assert "precision" not in json.dumps(records(tmp_path / "run", "resume"))


def test_bf16_that_is_slow_is_said(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16_arithmetic", lambda device: False)
    config = tiny_config(image_folder, training={"precision": "bf16", "steps_per_epoch": 1})
    train(config, tmp_path / "run", CPU)
    assert "slower than fp32" in records(tmp_path / "run", "note")[0]["text"]


def test_images_that_the_device_does_not_hold(image_folder, tmp_path, monkeypatch):
    def full(self, images, device, show):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DeviceCrops, "__init__", full)
    config = tiny_config(image_folder, data={"source": "device"})
    for start in (lambda: train(config, tmp_path / "run", CPU), lambda: preflight(config, CPU)):
        with pytest.raises(ConfigError, match=r"6 images of 0\.0 GiB .* data\.source=files"):
            start()
