import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import cv2
import pytest
import torch

from lgmnet import runtime
from lgmnet.build import Source, build_model
from lgmnet.commands import main as lgmnet_main
from lgmnet.config import ConfigError
from lgmnet.costs.preflight import preflight
from lgmnet.data.images import ImageError
from lgmnet.data.packed import pack
from lgmnet.models import SensingModel
from lgmnet.operators.matrices import orthonormal
from lgmnet.runtime import Runtime
from lgmnet.training.checks import check_run
from lgmnet.training.gradients import Gradients
from lgmnet.training.images import open_data
from lgmnet.training.log import RunLog
from lgmnet.training.loop import NonFiniteLoss, train
from lgmnet.training.schedule import Position, rate_factor
from lgmnet.weights import files, saved, tensor_files
from tests.conftest import smooth_image, tiny_config, torchrun

CPU = Runtime(torch.device("cpu"))
PROJECT = Path(__file__).parents[1]

# Adam divides a gradient by its own size, so where it is nearly zero another order of summation
# shows: by up to a few hundredths of the step that a rate of 1e-3 makes.
ROUNDING = 5e-5


def records(folder, kind):
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def final(folder):
    return tensor_files.read_tensors(folder / "last.safetensors")


def train_steps(config, folder, last, monkeypatch, resume=False):
    """Run as a signal after step ``last`` would leave it."""
    from lgmnet.training import gradients

    original = gradients.backward

    def counted(*arguments):
        counted.steps += 1
        if counted.steps == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    counted.steps = 0
    monkeypatch.setattr(gradients, "backward", counted)
    result = train(config, folder, CPU, resume)
    monkeypatch.setattr(gradients, "backward", original)
    return result


def test_a_run_leaves_everything_that_repeats_it(image_folder, tmp_path):
    config = tiny_config(image_folder, training={"ema": 0.9}, data={"validation": ""})
    assert train(config, tmp_path / "run", CPU) == 0
    present = {path.name for path in (tmp_path / "run").iterdir()}
    assert present == {
        "config.yaml", "log.jsonl", "tensorboard", "last.pt", "last.safetensors",
        "ema.safetensors",
    }  # fmt: skip
    lines = records(tmp_path / "run", "train")
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"loss", "rate", "gradient_norm", "images_per_second", "memory_mib"} <= set(lines[0])
    assert {"commit", "torch", "images"} <= set(records(tmp_path / "run", "start")[0])
    weights = saved.find_weights(tmp_path / "run")
    assert weights.config == config
    assert weights.metadata["step"] == "6"


@pytest.mark.parametrize("source", ["files", "device"])
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_resumed_equals_uninterrupted(
    image_folder, tmp_path, monkeypatch, source, workers
):
    """To the last bit: weights, average, optimizer, noise and data position."""
    if source == "device" and workers:
        pytest.skip("this source has no workers")
    config = tiny_config(
        image_folder,
        data={"source": source, "workers": workers},
        training={"ema": 0.9},
        sampling={"noise_std": 0.01},
    )
    train(config, tmp_path / "whole", CPU)
    assert train_steps(config, tmp_path / "parts", 3, monkeypatch) == signal.SIGTERM
    assert not (tmp_path / "parts" / "last.safetensors").exists()
    train(config, tmp_path / "parts", CPU, resume=True)
    for name in ("last", "ema"):
        whole, parts = (
            tensor_files.read_tensors(tmp_path / run / f"{name}.safetensors")
            for run in ("whole", "parts")
        )
        assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("first", [False, True])
def test_a_run_goes_on_in_another_memory_format(
    image_folder, tmp_path, monkeypatch, optimizer, first
):
    """Moments keep their values: with those of other weights losses would differ from step 5."""
    before, after = (
        tiny_config(
            image_folder,
            training={"optimizer": optimizer, "ema": 0.9, "channels_last": layout,
                      "log_every": 1, "steps_per_epoch": 9, "schedule": "constant"},
        )
        for layout in (first, not first)
    )  # fmt: skip
    train(before, tmp_path / "whole", CPU)
    train_steps(before, tmp_path / "parts", 3, monkeypatch)
    train(after, tmp_path / "parts", CPU, resume=True)
    losses = [[r["loss"] for r in records(tmp_path / n, "train")] for n in ("whole", "parts")]
    assert len(losses[1]) == 9
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name in ("last", "ema"):
        whole, parts = (
            tensor_files.read_tensors(tmp_path / n / f"{name}.safetensors")
            for n in ("whole", "parts")
        )
        for key in whole:
            torch.testing.assert_close(whole[key], parts[key], rtol=0, atol=ROUNDING)


def test_source_and_workers_do_not_change_the_result(image_folder, tmp_path):
    runs = [("files", 0), ("files", 2), ("device", 0)]
    for source, workers in runs:
        config = tiny_config(image_folder, data={"source": source, "workers": workers})
        train(config, tmp_path / f"{source}{workers}", CPU)
    first, *others = (final(tmp_path / f"{source}{workers}") for source, workers in runs)
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)


def test_crops_not_in_whole_blocks_name_the_next_size(image_folder):
    config = tiny_config(image_folder, data={"crop_size": 72})
    with pytest.raises(ConfigError, match=r"data\.crop_size 72 .* next one is 96"):
        train(config, image_folder / "run", CPU)


def test_accumulation_gives_the_same_step(image_folder, tmp_path):
    for parts in (1, 4):
        config = tiny_config(image_folder, training={"accumulate": parts})
        train(config, tmp_path / str(parts), CPU)
    one, four = final(tmp_path / "1"), final(tmp_path / "4")
    for key in one:
        torch.testing.assert_close(one[key], four[key], rtol=0, atol=ROUNDING)


def run_out_of_memory_above(crops, monkeypatch):
    """Let the allocator fail for more than so many crops at once; returns the sizes tried."""
    sizes = []
    forward = SensingModel.forward

    def limited(self, image, operator):
        sizes.append(len(image))
        if len(image) > crops:
            torch.empty(2**60)  # the allocator's own error
        return forward(self, image, operator)

    monkeypatch.setattr(SensingModel, "forward", limited)
    return sizes


@pytest.mark.parametrize(("batch", "fits", "tried"), [(4, 2, [4]), (6, 1, [6, 3])])
def test_out_of_memory_halves_the_parts_and_keeps_the_batch(
    image_folder, tmp_path, monkeypatch, capsys, batch, fits, tried
):
    changes = {"batch_size": batch, "steps_per_epoch": 2}
    config = tiny_config(image_folder, training=changes, sampling={"noise_std": 0.0})
    train(config, tmp_path / "whole", CPU)
    sizes = run_out_of_memory_above(fits, monkeypatch)
    train(config, tmp_path / "parts", CPU)

    assert sizes == tried + [fits] * (2 * batch // fits)
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    for key in whole:
        torch.testing.assert_close(whole[key], parts[key], rtol=0, atol=ROUNDING)
    text = f"the batch of {batch} is kept, now in {batch // fits} parts of {fits} crops"
    assert text in capsys.readouterr().out
    assert text in records(tmp_path / "parts", "note")[-1]["text"]


def test_memory_for_no_crop_at_all_ends_the_run(image_folder, tmp_path, monkeypatch):
    run_out_of_memory_above(0, monkeypatch)
    with pytest.raises(ConfigError, match=r"single crop does not fit .*; lower data\.crop_size"):
        train(tiny_config(image_folder), tmp_path / "run", CPU)


def test_another_error_is_not_taken_for_missing_memory(image_folder, tmp_path, monkeypatch):
    def broken(self, image, operator):
        raise RuntimeError("something else")

    monkeypatch.setattr(SensingModel, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        train(tiny_config(image_folder), tmp_path / "run", CPU)


def test_a_failed_compilation_goes_on_without(image_folder, tmp_path, monkeypatch, capsys):
    def no_compiler(graph, inputs):
        raise RuntimeError("no compiler here")

    compiled = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, mode, dynamic: compiled(self, backend=no_compiler)
    )
    train(tiny_config(image_folder), tmp_path / "eager", CPU)
    config = tiny_config(image_folder, training={"compile": True})
    train(config, tmp_path / "run", CPU)
    eager, run = final(tmp_path / "eager"), final(tmp_path / "run")
    assert all(torch.equal(eager[key], run[key]) for key in eager)
    assert capsys.readouterr().out.count("training.compile failed, the run continues") == 1


def test_recomputation_changes_nothing_but_memory(image_folder, tmp_path):
    for recompute in (False, True):
        config = tiny_config(image_folder, training={"recompute": recompute, "ema": 0.9})
        train(config, tmp_path / str(recompute), CPU)
    kept, again = final(tmp_path / "False"), final(tmp_path / "True")
    assert all(torch.equal(kept[key], again[key]) for key in kept)


def test_training_lowers_the_loss_and_keeps_the_best(image_folder, tmp_path):
    held = tmp_path / "held.txt"
    held.write_text("image4.png\n")
    config = tiny_config(
        image_folder,
        data={"validation": str(held), "source": "device"},
        model={"phity_skip": True},
        sampling={"phi_init": "xavier"},
        training={"epochs": 10, "steps_per_epoch": 10, "validate_every": 25, "ema": 0.9,
                  "rate": 2e-3, "log_every": 10},
    )  # fmt: skip
    train(config, tmp_path / "run", CPU)
    losses = [line["loss"] for line in records(tmp_path / "run", "train")]
    assert losses[-1] < 0.5 * losses[0]
    scores = [line["psnr"] for line in records(tmp_path / "run", "validation")]
    best = saved.Weights(tmp_path / "run" / "best.safetensors")
    assert json.loads(best.metadata["metrics"])["validation_psnr"] == max(scores)


def test_a_run_begins_from_weights(image_folder, tmp_path):
    settings = {"steps_per_epoch": 2, "rate": 1e-30}
    assert train(tiny_config(image_folder), tmp_path / "first", CPU) == 0
    started = {**settings, "start": str(tmp_path / "first")}
    assert train(tiny_config(image_folder, training=started), tmp_path / "second", CPU) == 0
    first, second = final(tmp_path / "first"), final(tmp_path / "second")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_validation_images_are_not_trained_on(image_folder, tmp_path):
    held = tmp_path / "held.txt"
    held.write_text("# comment\nimage1.png\nimage4.png\n")
    config = tiny_config(image_folder, data={"validation": str(held), "exclude": ["image0.png"]})
    data = open_data(config)
    assert data.validation is not None
    assert sorted(data.validation.names) == ["image1.png", "image4.png"]
    assert sorted(data.train.names) == ["image2.png", "image3.png", "image5.png"]


@pytest.mark.parametrize(("source", "workers"), [("files", 2), ("device", 0)])
def test_bad_images_are_left_out_counted_and_named(image_folder, tmp_path, capsys, source, workers):
    whole = (image_folder / "image0.png").read_bytes()
    (image_folder / "cut.png").write_bytes(whole[: len(whole) // 2])  # its header is good
    (image_folder / "none.png").write_bytes(b"")
    cv2.imwrite(str(image_folder / "small.png"), smooth_image(20, 90))
    config = tiny_config(image_folder, data={"source": source, "workers": workers})
    train(config, tmp_path / "run", CPU)
    text = capsys.readouterr().out
    assert "training on 7 images, 0 for validation, in fp32; 2 left out:" in text
    assert "small.png is too small: 20 x 90" in text
    assert "none.png cannot be read" in text
    assert "1 images could not be decoded: cut.png" in text
    assert records(tmp_path / "run", "end")[0]["unreadable"] == ["cut.png"]


def test_validation_images_in_a_packed_store_are_left_out(image_folder, tmp_path):
    held = tmp_path / "held"
    held.mkdir()
    (held / "image1.png").write_bytes((image_folder / "image1.png").read_bytes())
    pack(image_folder, tmp_path / "x.luma")
    settings = {"validation": str(held), "validation_images": 1}
    data = open_data(tiny_config(tmp_path / "x.luma", data=settings))
    assert len(data.train.names) == 5
    assert "image1.png" not in data.train.names
    assert "validation image" in data.rejected["image1.png"]


def test_a_held_out_name_that_is_not_there_is_an_error(image_folder, tmp_path):
    (tmp_path / "held.txt").write_text("other.png\n")
    config = tiny_config(image_folder, data={"validation": str(tmp_path / "held.txt")})
    with pytest.raises(ImageError, match=r"other\.png"):
        open_data(config)


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_state(
    image_folder, tmp_path, monkeypatch
):
    from lgmnet.training import gradients

    config = tiny_config(image_folder, training={"validate_every": 2})
    original = gradients.backward
    steps = []

    def poisoned(*arguments):
        steps.append(1)
        terms = original(*arguments)
        return {**terms, "loss": terms["loss"] * math.nan} if len(steps) == 4 else terms

    monkeypatch.setattr(gradients, "backward", poisoned)
    with pytest.raises(NonFiniteLoss, match=r"step 4: loss nan.*samples 12 to 15.*last\.pt"):
        train(config, tmp_path / "run", CPU)
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["step"] == 2


def test_a_time_budget_ends_the_run(image_folder, tmp_path):
    config = tiny_config(image_folder, training={"minutes": 0.02, "epochs": 100_000})
    train(config, tmp_path / "run", CPU)
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert 1.2 <= state["elapsed"] < 6


def test_the_time_budget_begins_after_the_first_step_which_compiles(
    image_folder, tmp_path, monkeypatch
):
    """A first step of half the budget would take the warm-up away."""
    from lgmnet.training import gradients

    original, slow = gradients.backward, [0.6]

    def compiling(*arguments):
        time.sleep(slow.pop() if slow else 0)
        return original(*arguments)

    monkeypatch.setattr(gradients, "backward", compiling)
    config = tiny_config(
        image_folder,
        training={"minutes": 0.02, "schedule": "onecycle", "warmup": 0.5, "log_every": 1},
    )
    train(config, tmp_path / "run", CPU)
    first, second = records(tmp_path / "run", "train")[:2]
    assert first["minutes"] == 0
    assert second["rate"] == pytest.approx(config.training.rate / 25, rel=0.5)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, {0: 1.0, 50: 1.0, 99: 1.0}),
        ("multistep", 0.0, {0: 1.0, 49: 1.0, 50: 0.1, 80: 0.01}),
        ("cosine", 0.0, {0: 1.0, 50: 0.5, 100: 0.0}),
        ("cosine", 0.2, {0: 1e-3, 10: 0.5, 20: 1.0, 60: 0.5, 100: 0.0}),
        ("onecycle", 0.2, {0: 1 / 25, 10: 0.52, 20: 1.0, 60: 0.5, 100: 0.0}),
    ],
)
def test_schedules_by_hand(schedule, warmup, expected):
    settings = tiny_config(
        training={"schedule": schedule, "warmup": warmup, "epochs": 10, "steps_per_epoch": 10,
                  "milestones": [5, 8]},
    ).training  # fmt: skip
    for step, factor in expected.items():
        assert rate_factor(Position(step=step), settings) == pytest.approx(factor, abs=1e-9)


def test_a_time_budget_drives_the_schedule():
    settings = tiny_config(training={"schedule": "cosine", "minutes": 2}).training
    assert rate_factor(Position(step=7, elapsed=60.0), settings) == pytest.approx(0.5)


def test_resume_without_a_state_says_so(image_folder, tmp_path):
    with pytest.raises(files.CheckpointError, match="start without --resume"):
        train(tiny_config(image_folder), tmp_path / "new", CPU, resume=True)


def test_resuming_says_what_has_changed_and_a_finished_run_is_left_alone(
    image_folder, tmp_path, monkeypatch, capsys
):
    config = tiny_config(image_folder)
    train_steps(config, tmp_path / "run", 2, monkeypatch)
    changed = tiny_config(image_folder, training={"rate": 2e-3})
    train(changed, tmp_path / "run", CPU, resume=True)
    assert "resumed from step 2; changed: training.rate 0.001 -> 0.002" in capsys.readouterr().out
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    with pytest.raises(files.CheckpointError, match="finished .step 6.; there is nothing"):
        train(config, tmp_path / "run", CPU, resume=True)
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before


def test_a_run_that_died_before_its_first_state_starts_again(image_folder, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "log.jsonl").write_text("of the first attempt\n")
    assert train(tiny_config(image_folder), folder, CPU) == 0
    assert [record["step"] for record in records(folder, "start")] == [0]


def test_resuming_follows_the_weight_decay_and_refuses_another_optimizer(
    image_folder, tmp_path, monkeypatch
):
    train_steps(tiny_config(image_folder), tmp_path / "run", 2, monkeypatch)
    with pytest.raises(files.CheckpointError, match=r"training\.optimizer = adam, but"):
        train(
            tiny_config(image_folder, training={"optimizer": "muon"}), tmp_path / "run", CPU, True
        )
    seen = []
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: seen.append(self.param_groups[0]["weight_decay"])
    )
    train(tiny_config(image_folder, training={"weight_decay": 0.5}), tmp_path / "run", CPU, True)
    assert seen == [0.5] * 4


def test_resume_with_another_network_is_refused(image_folder, tmp_path, monkeypatch):
    train_steps(tiny_config(image_folder), tmp_path / "run", 2, monkeypatch)
    with pytest.raises(
        files.CheckpointError,
        match=r"model\.D = 1, but the config says 2; resume with the config",
    ):
        train(tiny_config(image_folder, model={"D": 2}), tmp_path / "run", CPU, resume=True)


def test_crops_must_be_in_whole_blocks(image_folder, tmp_path):
    with pytest.raises(ConfigError, match="next one is 64"):
        train(tiny_config(image_folder, data={"crop_size": 40}), tmp_path / "run", CPU)


def test_preflight_reports_images_size_and_speed(image_folder, capsys, monkeypatch):
    monkeypatch.setattr("lgmnet.costs.preflight.SPEED_SECONDS", 0.1)
    (image_folder / "broken.png").write_bytes(b"no image")
    (image_folder / "tall.png").write_bytes((image_folder / "image0.png").read_bytes())
    config = tiny_config(image_folder, data={"crop_size": 96})
    assert preflight(config, CPU) == 1  # no image has 96 pixels on both sides
    told = capsys.readouterr()
    assert "none of the" in told.out
    assert "this run cannot start: none of the" in told.err
    assert preflight(tiny_config(image_folder), CPU) == 0
    text = capsys.readouterr().out
    for words in ("7 good", "unreadable        1", "broken.png", "GFLOP", "steps/s", "MiB"):
        assert words in text
    assert "a training step costs about 3.0 times that" in text
    assert "estimated" not in text
    monkeypatch.setattr("lgmnet.costs.preflight.LONGEST_STEP", 0.0)
    config = tiny_config(image_folder)
    assert preflight(config, CPU) == 0
    batch = config.training.batch_size
    assert f"from steps of 1 of {batch} crops: their time is multiplied by {batch}" in (
        capsys.readouterr().out
    )


def test_a_signal_is_noted_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with runtime.StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(0.01)
        assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_processes_give_the_result_of_one(image_folder, tmp_path):
    """Gloo on the CPU: the same global batches in parts, so the same loss at every step."""
    config = tiny_config(
        image_folder,
        training={"steps_per_epoch": 5, "log_every": 1, "accumulate": 2, "ema": 0.9},
    )
    (tmp_path / "config.yaml").write_text(config.as_yaml())
    train(config, tmp_path / "one", CPU)
    torchrun("train.py", tmp_path / "config.yaml", "--output", tmp_path / "two")
    for name in ("last", "ema"):
        one, two = (
            tensor_files.read_tensors(tmp_path / n / f"{name}.safetensors") for n in ("one", "two")
        )
        for key in one:
            torch.testing.assert_close(one[key], two[key], rtol=0, atol=ROUNDING)
    losses = [[line["loss"] for line in records(tmp_path / n, "train")] for n in ("one", "two")]
    assert len(losses[0]) == 5
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_two_processes_agree_on_signal_clock_and_buffers(tmp_path):
    """A signal that one of them got; the seconds of the first; what the first had fitted."""
    script = tmp_path / "agree.py"
    script.write_text(
        "import json, sys, torch\n"
        f"sys.path.insert(0, {str(PROJECT)!r})\n"
        "from lgmnet.config import TrainingConfig\n"
        "from lgmnet import runtime\n"
        "from lgmnet.training import learner\n"
        "with runtime.start('cpu') as here:\n"
        "    consensus, rank = runtime.Consensus(here, 7.0), here.rank\n"
        "    asked = [(0, 8.0 + rank), (15 * rank, 9.0 + rank)]\n"
        "    model = torch.nn.Linear(2, 2)\n"
        "    model.register_buffer('fitted', torch.full((2,), float(rank)))\n"
        "    wrapped = learner.prepare(model, TrainingConfig(), here)\n"
        "    found = [[consensus(*each) for each in asked], model.fitted.tolist()]\n"
        f"    open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(json.dumps(found))\n"
    )
    torchrun(script)
    expected = [[[0, 8.0], [15, 9.0]], [0.0, 0.0]]
    assert [json.loads((tmp_path / rank).read_text()) for rank in "01"] == [expected, expected]


def test_processes_do_not_share_one_gpu(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ValueError, match="put 2 processes on one GPU; under torchrun leave it out"),
        runtime.start("cuda:1"),
    ):
        pass


@pytest.mark.slow
def test_two_processes_agree_on_the_parts_when_one_runs_out_of_memory(image_folder, tmp_path):
    """A script in place of train.py: the memory of rank 1 holds a single crop."""
    config = tiny_config(image_folder)
    (tmp_path / "config.yaml").write_text(config.as_yaml())
    train(config, tmp_path / "one", CPU)
    script = tmp_path / "small.py"
    script.write_text(
        "import os, sys, torch\n"
        f"sys.path.insert(0, {str(PROJECT)!r})\n"
        "from lgmnet.models import SensingModel\n"
        "import train\n"
        "forward = SensingModel.forward\n"
        "def limited(self, image, operator=None):\n"
        "    if len(image) > 1 and os.environ['RANK'] == '1':\n"
        "        torch.empty(2**60)\n"
        "    return forward(self, image, operator)\n"
        "SensingModel.forward = limited\n"
        "train.main()\n"
    )
    done = torchrun(script, tmp_path / "config.yaml", "--output", tmp_path / "two")
    assert done.stdout.count("now in 2 parts of 1 crops") == 1
    one, two = final(tmp_path / "one"), final(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=ROUNDING)


@pytest.mark.gpu
def test_training_runs_on_the_gpu(image_folder, tmp_path):
    config = tiny_config(
        image_folder,
        data={"source": "device"},
        training={"precision": "bf16", "channels_last": True, "ema": 0.9},
    )
    assert train(config, tmp_path / "run", Runtime(torch.device("cuda"))) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compile": True, "accumulate": 2}, "overwrite the gradients .* set cuda_graphs=false"),
        ({"compile": False}, "needs a compiled network; set training.compile=true"),
    ],
)
def test_cuda_graphs_need_one_part_that_is_compiled(settings, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(training={"cuda_graphs": True, **settings})


def test_cuda_graphs_need_a_gpu(image_folder, tmp_path):
    config = tiny_config(image_folder, training={"cuda_graphs": True, "compile": True})
    for run in (lambda: train(config, tmp_path / "run", CPU), lambda: preflight(config, CPU)):
        with pytest.raises(ConfigError, match="needs a GPU, and this run is on cpu"):
            run()
    assert not (tmp_path / "run").exists()
    check_run(config, Runtime(torch.device("cuda")))


def gradients_of_tiny_model(notes, **settings):
    """`Gradients` of a model and settings whose check of the device is passed over."""
    config = tiny_config(training=settings)
    model = build_model(config, Source({"matrix": orthonormal(103, 1024)}))
    return Gradients(model, model, config.training, CPU, lambda step, text: notes.append(text))


def test_cuda_graphs_are_not_halved(monkeypatch):
    run_out_of_memory_above(2, monkeypatch)
    gradients = gradients_of_tiny_model([], compile=True, cuda_graphs=True)
    with pytest.raises(ConfigError, match=r"step 8, and with training\.cuda_graphs a batch cannot"):
        gradients(torch.zeros(4, 1, 32, 32, dtype=torch.uint8), gradients.model.operator, 7)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_halved_batch_is_compiled_again_and_it_is_said(monkeypatch, compiled):
    run_out_of_memory_above(2, monkeypatch)
    notes = []
    gradients = gradients_of_tiny_model(notes, compile=compiled)
    gradients(torch.zeros(4, 1, 32, 32, dtype=torch.uint8), gradients.model.operator, 0)
    assert len(notes) == 1
    assert ("the network is compiled again" in notes[0]) == compiled


def test_where_compiling_fails_there_are_no_graphs_to_replay_either():
    def no_compiler(graph, inputs):
        raise RuntimeError("no compiler here")

    notes = []
    gradients = gradients_of_tiny_model(notes, compile=True, cuda_graphs=True)
    gradients.model.network.compile(backend=no_compiler)
    gradients(torch.zeros(4, 1, 32, 32, dtype=torch.uint8), gradients.model.operator, 0)
    assert "continues without" in notes[0]
    assert not gradients.settings.compile
    assert not gradients.settings.cuda_graphs


def test_the_bar_moves_by_time_between_two_lines_of_the_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lgmnet.training.log.MOVES", (0.0, 0.0))
    with RunLog(tmp_path, total=100.0, start=0.0) as log:
        log.tick(step=7, done=30.0)
    assert " 30%" in capsys.readouterr().err
    monkeypatch.setattr("lgmnet.training.log.MOVES", (60.0, 60.0))
    with RunLog(tmp_path, total=100.0, start=0.0) as log:
        log.tick(step=7, done=30.0)
    assert " 30%" not in capsys.readouterr().err


def test_a_folder_with_a_run_says_what_to_do(tmp_path, capsys):
    """With the same settings: --resume. With others: a free folder."""
    config = tiny_config()
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "last.pt").touch()
    (tmp_path / "run_2").mkdir()
    (tmp_path / "tiny.yaml").write_text(config.as_yaml())
    (folder / "config.yaml").write_text(config.as_yaml())
    words = ["train", str(tmp_path / "tiny.yaml"), "--output", str(folder), "--device", "cpu"]
    assert lgmnet_main(words) == 1
    assert f"{folder} already contains this run; add --resume" in capsys.readouterr().err
    assert lgmnet_main([*words, "training.rate=0.5"]) == 1
    rate = config.training.rate
    expected = (
        f"other settings (training.rate was {rate}, is 0.5); choose another folder: --output "
    )
    assert f"{expected}{tmp_path / 'run_3'}" in capsys.readouterr().err
    (folder / "config.yaml").unlink()
    assert lgmnet_main([*words, "training.rate=0.5"]) == 1
    assert "add --resume to continue it" in capsys.readouterr().err
