"""Every command that README and three pages print runs as printed, with small configs and images.

A command that is new or has changed is run too, unless it is in SKIPPED; so is the Python block.
"""

import itertools
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from lgmnet import build
from lgmnet.commands import main
from lgmnet.conversion import merge, read_with_bases
from lgmnet.data.packed import pack
from tests.conftest import PROJECT, smooth_image
from tests.test_scripts import run_main

# In this order, so that a command finds what those before it have written.
PAGES = ("README.md", "docs/own-images.md", "docs/evaluate.md", "docs/train-coco.md")
TEXT = "\n".join((PROJECT / page).read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = list(dict.fromkeys(
    " ".join(shlex.split(line, comments=True))
    for language, block in BLOCKS
    if not language
    for line in block.replace("\\\n", "").splitlines()
))  # fmt: skip
EXAMPLES = [block for language, block in BLOCKS if language == "python"]

SKIPPED = {
    "git clone https://github.com/jianzhangcs/ISTA-Net-PyTorch data/istanet": "downloads",
    "python scripts/prepare_data.py Set11 BSD68": "downloads; see test_download.py",
    "python scripts/verify.py": "needs what the two lines above it fetch; see test_scripts.py",
    "python3 -m venv .venv": "installs PyTorch",
    "source .venv/bin/activate": "installs PyTorch",
    "pip install -c constraints.txt -e .": "installs PyTorch",
    "python scripts/import_weights.py lgm_net net_params_best.pkl --output "
    "checkpoints/lgm_net_official": "needs the authors' file; see test_scripts.py",
}
# What comes with the project is large: the six photographs are scored in minutes.
ADDED = {
    "python test.py": ["--data", "Set11"],
    "python test.py --fast --precision bf16": ["--data", "Set11"],
    "python test.py lgm_net_tiny_all_ratios --ratio 0.05 0.1": ["--data", "Set11"],
    "python scripts/benchmark.py configs/lgm_net.yaml configs/ista_net_plus.yaml --train 4":
        ["--size", "64", "--rounds", "1"],
}  # fmt: skip
# The configs that README names, with two steps of training and small networks.
STEPS = {"minutes": 0, "epochs": 1, "steps_per_epoch": 2, "milestones": [], "batch_size": 2,
         "compile": False}  # fmt: skip
SMALL_LGM = {"model": {"D": 1, "dim": 2, "dimf": 2}, "data": {"crop_size": 32}}
SMALL = {
    "quickstart": {"data": {"train": ["BSDS500"], "validation": "", "crop_size": 32}},
    "lgm_net": SMALL_LGM,
    "lgm_net_budget": SMALL_LGM,
    "lgm_net_tiny": {"data": {"crop_size": 32}},
    "lgm_net_tiny_all_ratios": {"data": {"crop_size": 32}},
    "ista_net_plus": {"model": {"stages": 2, "channels": 4}},
    "budget": {"data": {"crop_size": 32}},
    "fista": {"model": {"iterations": 2}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run: small configs before those of the project, and small images."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").mkdir()
    for name, changes in SMALL.items():
        tree = read_with_bases(PROJECT / "configs" / f"{name}.yaml")
        tree.pop("per_ratio", None)  # of the published lengths and rates
        small = {"training": STEPS, "evaluation": {"datasets": ["Set11"]}, "data": {"workers": 0}}
        tree = merge(merge(tree, small), changes)
        (folder / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    (folder / "configs" / "validation").mkdir()
    (folder / "configs" / "validation" / "bsds500.txt").write_text("held_out.png\n")
    excluded = ["12003.jpg", "302003.jpg"]  # by the configs for BSDS500
    seeds = itertools.count()  # copies of validation images are not trained on
    for name in ("Set11", "BSD68", "BSDS500", "coco2017/train2017", "coco2017/val2017"):
        (folder / "data" / name).mkdir(parents=True)
        own = [f"{Path(name).name}_{k}.png" for k in range(3)]
        for file in [*own, "held_out.png", *excluded] if name == "BSDS500" else own:
            cv2.imwrite(str(folder / "data" / name / file), smooth_image(64, 96, next(seeds)))
    cv2.imwrite(str(folder / "photo.png"), smooth_image(50, 70))
    shutil.copytree(folder / "data/BSD68", folder / "my_photos")
    signs = np.random.default_rng(0).choice([-1, 1], size=(103, 1024))
    np.save(folder / "my_phi.npy", signs.astype(np.int8))
    pack(folder / "data/coco2017/train2017", folder / "data/coco2017.luma")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command, folder, monkeypatch):
    """In the order of README, so that one finds what those before it have written."""
    if command in SKIPPED:
        pytest.skip(SKIPPED[command])
    if command.endswith(".onnx"):
        pytest.importorskip("onnxruntime")
    # One process is enough: test_training.py has two.
    launcher, *arguments = shlex.split(re.sub(r"torchrun --nproc-per-node \d+", "python", command))
    known = launcher in ("python", "lgmnet")
    assert known, "a new kind of command: run it here, or add it to SKIPPED"
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LGMNET_DATA", raising=False)
    monkeypatch.setattr(build, "START_BLOCKS", 2048)
    if arguments[0] in ("train.py", "train"):
        shutil.rmtree("runs", ignore_errors=True)  # a reader trains one of them, not all
    arguments += ADDED.get(command, [])
    if launcher == "lgmnet":
        assert main(arguments) == 0
    else:
        assert run_main(arguments[0], arguments[1:], monkeypatch) == 0


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_python_example_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", smooth_image(50, 70))
    exec(compile(example, "README.md", "exec"), {"image": torch.rand(1, 1, 256, 256)})


def test_only_printed_commands_are_excused():
    assert len(COMMANDS) > 20
    assert {*SKIPPED, *ADDED} <= set(COMMANDS)


def test_every_printed_config_is_made_small():
    named = re.findall(r"configs/(\w+)\.yaml", "\n".join(COMMANDS))
    assert set(named) == set(SMALL), "give it small settings in SMALL"
