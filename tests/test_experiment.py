"""Experiments: every combination once, nothing twice, and a table of means."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lgmnet import report
from lgmnet.commands import call, experiment_run
from lgmnet.commands import main as lgmnet_main
from lgmnet.config import ConfigError, config_from_dict, load_config
from lgmnet.experiments import plan, table
from tests.conftest import tiny_config

PROJECT = Path(__file__).parents[1]
EXPERIMENTS = sorted((PROJECT / "configs" / "experiments").glob("*.yaml"))


def main(*words):
    return call("experiment", [*words], "experiment.py")


def tree(**changes):
    return {
        "config": "tiny.yaml",
        "seeds": [1, 2],
        "overrides": ["model.dim=2"],
        "axes": {
            "ratio": {"10 %": ["sampling.ratio=0.1"], "25 %": ["sampling.ratio=0.25"]},
            "network": {"one": [], "two": ["other.yaml", "model.dim=4"]},
        },
        "data": ["builtin"],
        "columns": ["parameters", "builtin psnr"],
        **changes,
    }


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_run_of_a_shipped_experiment_has_a_valid_config_and_a_folder(path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    runs = list(plan.expand(plan.read_experiment(path), path.stem))
    for run in runs:
        assert load_config(Path(run.config), run.overrides).training.seed == run.seed
    assert len({run.folder for run in runs}) == len(runs)


def test_runs_are_the_product_of_axes_and_seeds_and_later_words_win():
    runs = list(plan.expand(tree(), "x"))
    assert len(runs) == 8
    assert {run.config for run in runs if run.choices["network"] == "two"} == {"other.yaml"}
    last = runs[-1]
    assert last.overrides == ["model.dim=2", "sampling.ratio=0.25", "model.dim=4",
                              "training.seed=2"]  # fmt: skip
    assert last.folder == Path("runs/experiments/x/25-_two_seed2")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_shipped_experiment_can_use_bsds500_alone(path, monkeypatch, capsys):
    """Its runs and its table are beside those of the experiment, and all configs are valid."""
    monkeypatch.chdir(PROJECT)
    assert main(str(path), "data.train=BSDS500", "--list") == 0
    commands = capsys.readouterr().out.splitlines()
    for command in commands:
        program, name, config, *words, option, folder = shlex.split(command)
        assert (program, name, option) == ("python", "train.py", "--output")
        assert load_config(Path(config), words).data.train == ("BSDS500",)
        own = f"runs/experiments/{path.stem}_data.train-BSDS500/"
        assert folder.startswith(own)
        assert command.count("runs/experiments") == command.count(own)
    assert len(commands) == len(list(plan.expand(plan.read_experiment(path), "x")))
    assert lgmnet_main(["experiment", str(path), "--list"]) == 0
    assert capsys.readouterr().out.startswith("lgmnet train configs/")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.ratio=0.5", "the axis 'ratio' of the experiment sets sampling.ratio"),
        ("training.seed=7", "the list 'seeds' of the experiment sets training.seed"),
        ("fast", "'fast' is not KEY=VALUE"),
    ],
)
def test_a_change_of_all_runs_cannot_undo_the_choices(override, message, tmp_path, capsys):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(tree()))
    assert main(str(tmp_path / "x.yaml"), override) == 1
    error = capsys.readouterr().err
    assert error.startswith("experiment.py: ")
    assert message in error


def test_parts_share_the_runs():
    runs = list(range(7))
    parts = [runs[slice(*plan.part(f"{k}/3"))] for k in (1, 2, 3)]
    assert sorted(run for share in parts for run in share) == runs
    for wrong in ("0/2", "3/2", "2"):
        with pytest.raises(ConfigError, match="expected k/n"):
            plan.part(wrong)


def test_keys_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="no config file"):
        plan.read_experiment(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"config": "a", "seed": 1}))
    with pytest.raises(ConfigError, match="exactly these keys: axes, columns"):
        plan.read_experiment(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(tree(axes=["ratio"])))
    with pytest.raises(ConfigError, match="axes needs a name"):
        plan.read_experiment(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("axes: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        plan.read_experiment(tmp_path / "x.yaml")


def test_a_grid_is_short_for_axes(tmp_path):
    content = tree(grid={"model.stages": [3, 5], "model.step": ["gd", "gin"]}, seeds=[1])
    del content["axes"]
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
    runs = list(plan.expand(plan.read_experiment(tmp_path / "x.yaml"), "x"))
    assert len(runs) == 4
    assert runs[1].choices == {"model.stages": "3", "model.step": "gin"}
    assert runs[1].folder.name == "stages-3_step-gin_seed1"
    assert runs[1].overrides == [
        "model.dim=2", "model.stages=3", 'model.step="gin"', "training.seed=1"
    ]  # fmt: skip
    for wrong in ({"model.stages": 3}, {"model.stages": []}, {"model.stages": [3, 3]}, {}, [1]):
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(content | {"grid": wrong}))
        with pytest.raises(ConfigError, match="needs a list of different values"):
            plan.read_experiment(tmp_path / "x.yaml")


def test_grid_values_of_every_type_reach_the_config(tmp_path):
    config = tiny_config(tmp_path).as_yaml()
    (tmp_path / "tiny.yaml").write_text(config)
    grid = {"model.phity_skip": [True, False], "model.aegr_inputs": [["x"], ["x", "z"]]}
    axes = plan.grid_axes(Path("x.yaml"), grid)
    words = [words[0] for axis in axes.values() for words in axis.values()]
    options = [load_config(tmp_path / "tiny.yaml", [word]).model.options for word in words]
    assert [o["phity_skip"] for o in options[:2]] == [True, False]
    assert [list(o["aegr_inputs"]) for o in options[2:]] == [["x"], ["x", "z"]]


def test_a_run_of_another_process_is_left_to_it(tmp_path, monkeypatch, capsys):
    """A process holds the lock of the first of two runs until it is killed."""

    def run(name):
        return plan.Run("x", {"step": name}, 1, "tiny.yaml", [])

    made = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment_run, "perform", lambda run, *rest: made.append(run))
    code = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""
    lock = run("one").folder.with_name(".one_seed1.lock")
    lock.parent.mkdir(parents=True)
    words = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        for name in ("one", "two"):
            experiment_run.perform_alone(run(name), {}, "cpu")
        assert made == [run("two")]
        assert "one_seed1: another process makes this run" in capsys.readouterr().out
        other.kill()
    experiment_run.perform_alone(run("one"), {}, "cpu")
    assert made == [run("two"), run("one")]


def test_an_experiment_is_trained_scored_and_not_repeated(
    tmp_path, image_folder, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    config = tiny_config(image_folder, training={"ema": 0.5})
    Path("tiny.yaml").write_text(config.as_yaml(), encoding="utf-8")
    content = tree(seeds=[1], data=[str(image_folder)], columns=["parameters", "images psnr"])
    content["axes"] = {"rate": {"high": ["training.rate=1e-2"]}}
    Path("trial.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main("trial.yaml") == 0

    [run] = json.loads(Path("docs/experiments/trial.json").read_text())["runs"]
    assert run["choices"] == {"rate": "high"}
    assert run["crops"] == 24
    assert run["scores"]["images"]["residual"] > 0
    scores = json.loads(Path("runs/experiments/trial/high_seed1/metrics.json").read_text())
    assert scores["weights"] == "high_seed1_ema"
    monkeypatch.setattr(experiment_run.subprocess, "run", None)  # a second training would fail
    assert main("trial.yaml") == 0
    assert "1 of 1 runs" in capsys.readouterr().out
    assert main("trial.yaml", "model.D=1", "--finished") == 0  # another experiment
    assert "0 of 1 runs, written to results/experiments/trial_model.D-1.json" in (
        capsys.readouterr().out
    )


def test_a_range_is_scored_at_every_published_ratio_in_it(tmp_path, image_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny_config(image_folder, sampling={"ratio": [0.01, 0.05], "phi": "fixed"})
    Path("tiny.yaml").write_text(config.as_yaml(), encoding="utf-8")
    content = tree(seeds=[3], data=[str(image_folder)], name_ratios=True, fast="bf16")
    content["axes"] = {"network": {"range": [], "1 %": ["sampling.ratio=0.01"]}}
    content["overrides"] = ["data.validation=", "training.start={seed}"]
    content["columns"] = ["images at 1 % psnr", "images at 4 % psnr"]
    assert {run.overrides[1] for run in plan.expand(content, "x")} == {"training.start=3"}
    content["overrides"] = []
    Path("trial.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main("trial.yaml") == 0
    one, several = json.loads(Path("docs/experiments/trial.json").read_text())["runs"]
    assert set(several["scores"]) == {"images at 1 %", "images at 4 %"}
    assert set(one["scores"]) == {"images at 1 %"}
    shown = report.experiment_table(json.loads(Path("docs/experiments/trial.json").read_text()))
    assert shown.splitlines()[-2].endswith("|                  – |")


def test_the_last_validation_is_a_score(tmp_path):
    lines = [{"kind": "validation", "psnr": psnr, "ssim": 0.5, "step": 1} for psnr in (20, 21)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"kind": "end"}])))
    assert table.validation(tmp_path) == {"validation": {"psnr": 21, "ssim": 0.5}}
    one = config_from_dict({"model": {"name": "fista"}, "sampling": {"ratio": 0.1}}).sampling
    assert table.validation(tmp_path, one) == {"validation at 10 %": {"psnr": 21}}
    several = replace(one, ratio=(0.01, 0.04))
    lines = {"kind": "validation", "psnr": 22, "ssim": 0.5, "psnr_r0.01": 20, "psnr_r0.04": 24}
    (tmp_path / "log.jsonl").write_text(json.dumps(lines))
    assert table.validation(tmp_path, several) == {
        "validation at 1 %": {"psnr": 20},
        "validation at 4 %": {"psnr": 24},
    }


def test_speed_and_latency_are_relative_to_the_first_run_and_the_same_for_every_seed(tmp_path):
    timed = {f"x/{name}_seed1/ema.safetensors":
             {"training": {"crops_per_second": speed}, "seconds_p50": seconds}
             for name, speed, seconds in (("b", 5.0, 0.3), ("a", 20.0, 0.2))}  # fmt: skip
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps({"networks": timed}))
    rows: dict = {
        f"{name}_seed{seed}": {"choices": {"network": name}} for name in "ab" for seed in (1, 2)
    }
    table.add_speed(rows, path)
    assert [row["speed"] for row in rows.values()] == [1, 1, 0.25, 0.25]
    assert [row["latency"] for row in rows.values()] == [1, 1, 1.5, 1.5]
    with pytest.raises(ConfigError, match="no training step of c_seed1"):
        table.add_speed({"c_seed1": {"choices": {"network": "c"}}}, path)


def test_rows_of_other_machines_stay_while_their_command_is_one_of_the_experiment(
    tmp_path, monkeypatch
):
    """Here one of four runs is finished; of the rest the table knows one, under another name."""
    here, there, *_ = runs = list(plan.expand(tree(seeds=[1]), "x"))
    monkeypatch.setattr(table, "done", lambda folder: folder == here.folder)
    monkeypatch.setattr(table, "result", lambda run, named: {"parameters": 2})
    known = {"seed": 1, "parameters": 1, "scores": {}}
    before = [
        {"choices": {"network": "old name"}, "command": there.command, "speed": 0.5, **known},
        {"choices": here.choices, "command": here.command, "speed": 7, **known},
        {"choices": runs[2].choices, "command": "python train.py another.yaml", **known},
    ]
    rows = table.table_rows(runs, before, False)
    assert list(rows) == [here.folder.name, there.folder.name]
    first, second = rows.values()
    assert (first["parameters"], first["speed"]) == (2, 7)
    assert second == before[0] | {"choices": there.choices}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_published_row_is_a_run_of_its_experiment(path):
    rows = json.loads((PROJECT / f"docs/experiments/{path.stem}.json").read_text("utf-8"))["runs"]
    runs = {run.command: run for run in plan.expand(plan.read_experiment(path), path.stem)}
    for row in rows:
        run = runs[row["command"]]
        assert (row["choices"], row["seed"]) == (run.choices, run.seed)


def test_a_missing_speed_is_a_dash():
    rows = [{"choices": {"network": "a"}, "seed": 1, "scores": {}, "speed": 0.5},
            {"choices": {"network": "b"}, "seed": 1, "scores": {}}]  # fmt: skip
    table = report.experiment_table({"columns": ["speed"], "runs": rows})
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:]] == ["0.50", "–"]


def test_a_table_shows_mean_and_deviation_over_seeds():
    def run(seed, psnr):
        scores = {"Set11": {"psnr": psnr, "residual": 0.5}}
        return {"choices": {"step": "cat"}, "seed": seed, "parameters": 1234, "scores": scores}

    content = {
        "columns": ["parameters", "Set11 psnr", "Set11 residual"],
        "runs": [run(1, 29.0), run(2, 30.0)],
    }
    table = report.experiment_table(content)
    assert "| step | parameters |   Set11 PSNR | Set11 ‖Φx̂−y‖/‖y‖ |" in table
    assert "1,234" in table
    assert "29.50 ± 0.71" in table
    assert "0.5000 ± 0.0000" in table


def test_differences_are_to_the_first_choice_with_the_same_seed():
    """Seeds shift all rows by 1 dB, so the differences have less spread than the scores."""

    def run(ratio, network, seed, psnr):
        scores = {"Set11": {"psnr": psnr}}
        return {"choices": {"ratio": ratio, "network": network}, "seed": seed, "scores": scores}

    runs = [run(r, n, seed, psnr + seed) for r, n, seed, psnr in (
        ("10 %", "a", 1, 20), ("10 %", "a", 2, 20), ("25 %", "a", 1, 30), ("10 %", "b", 1, 20.5),
        ("10 %", "b", 2, 20.7), ("25 %", "b", 1, 29), ("25 %", "b", 3, 29))]  # fmt: skip
    content = {"columns": ["Set11 psnr", "Set11 difference"], "runs": runs}
    lines = [line.split("|")[1:-1] for line in report.experiment_table(content).splitlines()]
    assert [cell.strip() for cell in lines[0][2:]] == ["Set11 PSNR", "Set11 difference"]
    found = {tuple(c.strip() for c in line[:2]): line[3].strip() for line in lines[2:]}
    assert found == {
        ("10 %", "a"): "–",
        ("25 %", "a"): "–",
        ("10 %", "b"): "+0.60 ± 0.14",
        ("25 %", "b"): "-1.00",  # the first row has no seed 3
    }


def test_the_choices_of_one_axis_can_be_columns():
    """Scores always, other columns where they differ; a missing run is a dash."""

    def run(ratio, network, psnr, parameters):
        return {"choices": {"ratio": ratio, "network": network}, "seed": 1, "crops": 7,
                "parameters": parameters, "scores": {"Set11": {"psnr": psnr}}}  # fmt: skip

    runs = [run("10 %", "a", 20, 1), run("25 %", "a", 30, 2), run("25 %", "b", 29, 3)]
    columns = ["crops", "parameters", "Set11 psnr", "Set11 difference"]
    content = {"across": "ratio", "columns": columns, "runs": runs}
    lines = [line.split("|")[1:-1] for line in report.experiment_table(content).splitlines()]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    kinds = ["parameters", "Set11 PSNR", "Set11 difference"]
    spread = [f"{kind}, {ratio}" for kind in kinds for ratio in ("10 %", "25 %")]
    assert head == ["network", "crops", *spread]
    assert rows == [
        ["a", "7", "1", "2", "20.00", "30.00", "–", "–"],
        ["b", "7", "–", "3", "–", "29.00", "–", "-1.00"],
    ]


def test_across_names_an_axis(tmp_path):
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(tree(across="rate")))
    with pytest.raises(ConfigError, match="across is 'rate', expected one of its axes: "):
        plan.read_experiment(path)


def test_a_difference_is_no_score_of_a_table(capsys):
    assert lgmnet_main(["table", "lgm_net_tiny_r0.10", "--scores", "difference"]) == 1
    assert "unknown score 'difference'" in capsys.readouterr().err
