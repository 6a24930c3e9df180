"""What benchmark.py writes, and what its numbers mean; how fast anything is, is no test."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lgmnet import complexity, report
from lgmnet.build import build_model
from lgmnet.models import SensingModel, create_network
from lgmnet.operators import BlockSampling
from lgmnet.weights.saved import save_weights
from tests.conftest import tiny_config, without_device
from tests.test_scripts import run_main

CPU = torch.device("cpu")
PROJECT = Path(__file__).parents[1]
SCRIPT = "scripts/benchmark.py"

FOREIGN = """
from torch import nn
class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
    def forward(self, image):
        return self.conv(image)
class Needs(Theirs):
    def __init__(self, width):
        super().__init__()
class Colour(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 1, 3)
"""

NUMBER = (int, float)
RATIO = {"median": NUMBER, "low": NUMBER, "high": NUMBER}
LATENCY = {"seconds_p50": NUMBER, "seconds_p95": NUMBER, "ratio": RATIO}
TRAINING = {
    **LATENCY, "crops_per_second": NUMBER, "batch": int, "crop_size": int, "kept_mib": NUMBER,
    "peak_memory_mib": NUMBER,
    "share": dict.fromkeys(("data", "forward", "backward", "optimizer"), NUMBER),
}  # fmt: skip
FOREIGN_NETWORK = {
    **LATENCY, "size": int, "parameters": int, "parameters_without_phi": type(None),
    "flops": int, "macs": int,
    "images_per_second": NUMBER, "peak_memory_mib": NUMBER,
}  # fmt: skip
NETWORK = {**FOREIGN_NETWORK, "parameters_without_phi": int, "training": TRAINING}
MACHINE = dict.fromkeys(("commit", "torch", "python", "platform", "device", "clock"), str)


def check(value, schema, place="results"):
    """Raise unless ``value`` has exactly the keys and types of the schema."""
    if not isinstance(schema, dict):
        assert isinstance(value, schema), f"{place} is {value!r}"
        return
    assert set(value) == set(schema), place
    for key, kind in schema.items():
        check(value[key], kind, f"{place}.{key}")


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_config().as_yaml())
    return path


@pytest.fixture
def foreign(tmp_path):
    path = tmp_path / "theirs.py"
    path.write_text(FOREIGN)
    return path


@pytest.mark.filterwarnings("ignore:.*profiler.*")
def test_the_results_follow_their_schema(network, foreign, tmp_path, monkeypatch, capsys):
    theirs, bf16 = f"{foreign}:Theirs", f"{network},training.precision=bf16"
    arguments = [f"plain:{network}", bf16, "--compare", theirs, "--size", 64, "--rounds", 2,
                 "--train", 2, "--data-rate", "--profile", "--device", "cpu",
                 "--output", tmp_path / "out"]  # fmt: skip
    assert run_main(SCRIPT, arguments, monkeypatch) == 0
    results = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    ours = [f"plain:{network}", bf16]
    check(
        results,
        {
            "machine": {**MACHINE, "threads": int},
            **dict.fromkeys(("size", "batch", "rounds", "warmup"), int),
            "networks": {**dict.fromkeys(ours, NETWORK), theirs: FOREIGN_NETWORK},
            "crops_per_second": {"read": NUMBER, "device": NUMBER},
        },
    )
    plain, reduced, other = results["networks"].values()
    model = build_model(tiny_config())
    assert plain["parameters"] == complexity.parameters(model)
    assert plain["flops"] == reduced["flops"] == complexity.cost(model, 64, 64).flops
    assert (other["parameters"], other["flops"]) == (10, 2 * 9 * 64 * 64)
    assert plain["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert sum(plain["training"]["share"].values()) == pytest.approx(1)
    assert 0 < plain["training"]["kept_mib"] < plain["training"]["peak_memory_mib"]
    assert len(list((tmp_path / "out").glob("trace_*.json"))) == 3
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert all(f"| {name} " in text for name in (*ours, theirs))


def test_scores_are_plotted_beside_the_weights_they_belong_to(tmp_path, monkeypatch, capsys):
    config = tiny_config()
    for name in ("a", "b"):
        save_weights(tmp_path / name / "model.safetensors", build_model(config), config)
        scores = {"weights": name, "ratio": config.sampling.ratio,
                  "datasets": {"Set11": {"psnr": 30.0 + (name == "b")}}}  # fmt: skip
        (tmp_path / name / "metrics.json").write_text(json.dumps(scores))
    files = [tmp_path / name / "metrics.json" for name in ("b", "a")]
    base = [tmp_path / "a", tmp_path / "b", "--size", 32, "--rounds", 1, "--device", "cpu",
            "--output", tmp_path / "out"]  # fmt: skip
    assert run_main(SCRIPT, [*base, "--metrics", *files], monkeypatch) == 0
    rows = json.loads((tmp_path / "out" / "benchmark.json").read_text())["networks"]
    assert [row["psnr"] for row in rows.values()] == [30, 31]
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 5000
    capsys.readouterr()
    assert run_main(SCRIPT, [*base, "--metrics", *files, "--dataset", "Set12"], monkeypatch) == 1
    assert "has no Set12; it has Set11" in capsys.readouterr().err
    assert run_main(SCRIPT, [*base[1:], "--metrics", *files], monkeypatch) == 1
    assert "scores 'a', which is not among the networks given" in capsys.readouterr().err


def test_a_range_is_timed_and_scored_at_its_highest_ratio(tmp_path, monkeypatch, capsys):
    config = tiny_config(sampling={"ratio": [0.1, 0.5]})
    save_weights(tmp_path / "r" / "ema.safetensors", build_model(config), config)
    arguments = [tmp_path / "r" / "ema.safetensors", "--size", 32, "--rounds", 1, "--device", "cpu",
                 "--output", tmp_path / "out", "--metrics", tmp_path / "m.json"]  # fmt: skip
    scores = {"weights": "r_ema", "ratio": 0.1, "datasets": {"Set11": {"psnr": 30.0}}}
    (tmp_path / "m.json").write_text(json.dumps(scores))
    assert run_main(SCRIPT, arguments, monkeypatch) == 1
    assert "scores 'r_ema' at 0.1, but" in capsys.readouterr().err
    (tmp_path / "m.json").write_text(json.dumps(scores | {"ratio": 0.5}))
    assert run_main(SCRIPT, arguments, monkeypatch) == 0


def test_changes_may_hold_commas_and_algorithms_have_a_cost(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    name = "configs/fista.yaml,model.iterations=2"
    both = [name, "configs/lgm_net_tiny.yaml,sampling.ratio=[0.01,0.5],training.seed=1"]
    arguments = [*both, "--size", 64, "--rounds", 1, "--device", "cpu", "--output", tmp_path]
    assert run_main(SCRIPT, arguments, monkeypatch) == 0
    rows = json.loads((tmp_path / "benchmark.json").read_text())["networks"]
    assert list(rows) == both
    # Per iteration Φ and Φᵀ (103 x 1024 for each of 4 blocks), and Φᵀ once.
    assert rows[name]["flops"] >= (2 * 2 + 1) * 2 * 4 * 103 * 1024


def test_each_network_is_measured_in_its_own_whole_blocks(network, foreign, tmp_path, monkeypatch):
    """64 pixels are 66 for blocks of 33; --profile takes the same."""
    monkeypatch.chdir(PROJECT)
    ista = "configs/ista_net_plus.yaml,model.stages=1,model.channels=2"
    theirs = f"{foreign}:Theirs"
    arguments = [network, ista, "--compare", theirs, "--size", 64, "--rounds", 1, "--train", 2,
                 "--profile", "--device", "cpu", "--output", tmp_path]  # fmt: skip
    assert run_main(SCRIPT, arguments, monkeypatch) == 0
    rows = json.loads((tmp_path / "benchmark.json").read_text())["networks"]
    assert [row["size"] for row in rows.values()] == [64, 66, 64]
    assert "|   66 |" in (tmp_path / "benchmark.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["NETWORK", "NETWORK"], "is given twice"),
        (["NETWORK,training.rat=1"], "did you mean 'rate'"),
        (["nothing"], "there are no weights 'nothing'"),
        (["nothing,training.rate=1"], "only a config takes changes"),
        (["--compare", "none.py:Net"], "of an existing file"),
        (["--compare", "FOREIGN:Other"], "no nn.Module named 'Other'"),
        (["--compare", "FOREIGN:Needs"], "Needs() without arguments fails"),
        (["--compare", "FOREIGN:Colour"], "does not take an image of shape (1, 1, 256, 256)"),
        (["--compare", "FOREIGN:Theirs", "--data-rate", "--rounds", "1"], "needs a config"),
        (["NETWORK", "--train", "2", "--data", "nowhere", "--size", "32"], "no images 'nowhere'"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(arguments, message, network, foreign, tmp_path, monkeypatch, capsys):
    filled = [
        a.replace("NETWORK", str(network)).replace("FOREIGN", str(foreign)) for a in arguments
    ]
    options = ["--device", "cpu", "--output", tmp_path / "out"]
    assert run_main(SCRIPT, [*filled, *options], monkeypatch) == 1
    error = without_device(capsys.readouterr().err)
    assert error.startswith("benchmark.py: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_runs_are_timed_in_turn_after_the_warm_up():
    calls, ticks = [], iter(range(1000))
    runs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = complexity.interleave(runs, 3, lambda: next(ticks), warmup=2)
    assert calls == ["a", "b"] * 5
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1]}


def test_speedup_compares_round_by_round():
    """A machine that slows down for both leaves the ratio as it is."""
    assert complexity.speedup([2, 4, 9], [1, 2, 3]) == (2, 2, 3)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (25, 1), (50, 2), (95, 4), (100, 4)])
def test_percentiles_are_values_that_occurred(percent, expected):
    assert complexity.percentile([3, 1, 4, 2], percent) == expected


@pytest.mark.parametrize(
    ("network", "gflop", "training_gflop"),
    [
        ("ista_net", 22.693, 33.904), ("ista_net_plus", 44.436, 66.179),
        ("gin_ista_net_plus", 44.776, 66.519), ("fista_net", 68.390, 102.213),
        ("amp_net", 44.450, 87.936), ("ampa_net", 44.485, 87.972), ("amp_net_tip", 45.116, 45.116),
    ],
)  # fmt: skip
def test_penalties_count_in_training_alone(network, gflop, training_gflop):
    with torch.device("meta"):
        operator = BlockSampling(torch.zeros(103, 1024), 32)
        model = SensingModel(operator, create_network(network, {}, operator.sizes()))
    cost = complexity.cost(model, 256, 256)
    assert cost.flops / 1e9 == pytest.approx(gflop, abs=6e-4)
    assert cost.training_flops / 1e9 == pytest.approx(training_gflop, abs=6e-4)


def test_activations_are_those_of_training():
    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1)

        def forward(self, image):
            result = self.layer(image)
            return result.square() if self.training else result

    # The image and the result, in float32; evaluation would keep the image alone.
    assert complexity.cost(Squared(), 4, 6).activations == 2 * 4 * 24


def test_memory_counts_what_is_held_at_once_and_what_is_left():
    def run():
        first = torch.zeros(1000, dtype=torch.float64)
        second = first.neg()
        del first
        return second

    assert complexity.memory(run, CPU) == (16_000, 8_000)


def test_a_table_has_one_row_per_network():
    row = {"size": 264, "parameters": 10, "parameters_without_phi": None, "flops": 2e9,
           "macs": 1e9,
           "seconds_p50": 0.5, "seconds_p95": 0.75, "images_per_second": 2.0,
           "peak_memory_mib": 3.0, "ratio": {"median": 2.0, "low": 1.5, "high": 2.5}}  # fmt: skip
    lines = report.cost_table({"networks": {"theirs": row}}).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["theirs", "264", "10", "-", "2.00", "1.00", "500.0", "750.0", "2.00", "3",
                     "2.00", "1.50 to 2.50", "-"]  # fmt: skip
