"""Every command that a page of the documentation prints runs, with short training and small images.

`test_readme.py` runs those of README and of three pages. A command that cannot run here is in
`SKIPPED`, with the reason. A new command is run as it is printed, so it may need a line in `ADDED`.
"""

import re
import shlex
import shutil

import cv2
import numpy as np
import pytest
import yaml

from lgmnet import build
from lgmnet.commands import main
from tests import test_readme
from tests.conftest import PROJECT, smooth_image
from tests.test_printed_commands import BLOCK, SHELL
from tests.test_scripts import run_main

# In this order, so that a command finds what those before it have written.
PAGES = ("data/README", "docs/index", "docs/own-phi", "docs/own-camera", "docs/papers",
         "docs/reports", "docs/ablate", "docs/ablations", "docs/experiments",
         "docs/performance", "docs/lorun", "docs/cassi", "docs/ct", "docs/mri",
         "docs/signals", "docs/sr", "docs/cluster")  # fmt: skip
PROGRAM = re.compile(r"(?:train|test|scripts/\w+)\.py|lgmnet")


def printed() -> list[str]:
    """The commands of the pages, from the program on, without those that README has too."""
    found = {}
    for page in PAGES:
        text = (PROJECT / f"{page}.md").read_text(encoding="utf-8")
        for block in (text for language, text in BLOCK.findall(text) if language in SHELL):
            for line in block.replace("\\\n", "").splitlines():
                words = shlex.split(line.replace("$resume", ""), comments=True)
                start = next((k for k, word in enumerate(words) if PROGRAM.fullmatch(word)), None)
                if start is not None and not line.lstrip().startswith("pip "):
                    found[shlex.join(words[start:])] = page
    run = {command.removeprefix("python ") for command in test_readme.COMMANDS}
    return [command for command in found if command not in run]


COMMANDS = printed()
DOWNLOADS = "downloads; see test_download.py"
THEIRS = "needs a file of the authors; see "
FULL = "times the full network for minutes; the same command is run for the small one"
# The start of a command, and why it does not run here.
SKIPPED = {
    "scripts/prepare_data.py Set11 BSD68 --from": DOWNLOADS,
    "scripts/prepare_data.py BSDS500": DOWNLOADS,
    "scripts/benchmark.py 'runs/experiments/networks": "needs 13 runs; see test_benchmark.py",
    "scripts/measure_inference.py configs/lgm_net.yaml": FULL,
    "scripts/benchmark.py plain:configs/lgm_net.yaml": FULL,
    "scripts/reconstruct_cube.py": "needs files of a real camera; see test_coded_aperture.py",
    "scripts/make_cube_figure.py --measurements": "needs files of a real camera; see above",
    "test.py configs/cassi_gap_tv.yaml 'sampling.size=[145,145]'": "needs Indian Pines",
    "test.py cassi_pnp_gap --mask": "needs Indian Pines",
    "test.py configs/cassi_gap_tv.yaml 'sampling.size=[128,128]'": "needs the mask of TSA-Net",
    "scripts/lista.py": "learns dictionaries for two minutes; the network: test_lista.py",
    "scripts/import_weights.py ista_net_plus": THEIRS + "test_ista_net.py",
    "scripts/import_weights.py admm_net": THEIRS + "test_admm_net.py",
    "scripts/import_weights.py admm_csnet": THEIRS + "test_admm_csnet.py",
    "test.py checkpoints/mri_ista": THEIRS + "test_ista_net.py",
    "scripts/score_mri.py": "needs the MRI images of two papers; see test_fourier_mask.py",
    "train.py configs/mri_admm_net.yaml training.optimizer": "needs MR images; see test_lbfgs.py",
    "scripts/import_weights.py usrnet": THEIRS + "test_usrnet.py",
    "test.py checkpoints/usrnet": THEIRS + "test_usrnet.py",
    "test.py configs/sr_bicubic.yaml": "needs kernels of the authors; see test_blur_down.py",
    "train.py configs/lgm_net.yaml --output": "the first command of the page, for two machines",
}
# Arguments that are added to a command that starts so.
SMALL_LGM = ["model.D=1", "model.dim=2", "model.dimf=2", "data.crop_size=32"]
ON_BSDS = ["data.train=BSDS500", "data.validation="]
FEW = ["--data", "Set11"]
ONCE = ["--rounds", "1", "--size", "32", "--train", "1"]
ADDED = {
    "lgmnet test runs/quickstart": FEW,
    "lgmnet train configs/quickstart.yaml": ["data.crop_size=32", "data.validation="],
    "scripts/reconstruct.py y.safetensors": ["--weights", "runs/own_phi"],  # of the page before
    "scripts/refit.py": ["--minutes", "0.05"],
    "scripts/refit.py phi.npy --steps": ["--steps", "2"],
    "scripts/report.py": FEW,
    "scripts/robustness.py": ["--data", "Set11[0:1]"],
    "train.py configs/ablations": [*SMALL_LGM, *ON_BSDS],
    "scripts/experiment.py configs/experiments": ["--list"],  # the runs take hours
    "train.py configs/lgm_net_tiny.yaml": ["data.crop_size=32"],
    "test.py runs/ct_fista_net": ["--data", "ct/phantoms.npz[520:522]"],
    "test.py runs/phantoms": ["--data", "ct/phantoms.npz[520:522]"],
    "train.py configs/ct_slices.yaml": ["sampling.side=96", "data.crop_size=96"],
    "scripts/measure_inference.py lgm_net_tiny": ["--side", "64", "--rounds", "1"],
    "scripts/benchmark.py plain:configs/lgm_net_tiny": ONCE,
    "scripts/measure_lorun.py": ["--rounds", "1", "--image", "64", "--crop", "32", "--stages", "2",
                                 "--denoisers", "transformer"],
    "train.py configs/lorun": ["model.stages=2", "data.crop_size=32", *ON_BSDS],
    "test.py configs/cassi": ["model.iterations=2"],
    "test.py cassi_pnp_gap": ["--data", "cubes_test[0:1]"],
    "train.py configs/cassi_lorun.yaml": ["sampling.mask=random"],
    "train.py configs/cassi_pnp_gap.yaml": ["sampling.mask=random", "model.iterations=2"],
    "scripts/make_cube_figure.py": ["--overrides", "sampling.size=[128,128]",
                                    "sampling.mask=random", "model.iterations=2",
                                    "--output", "cassi.png"],
    "test.py configs/ct_fista_tv.yaml": ["model.iterations=2"],
    "test.py configs/mri_fista_tv.yaml": ["model.iterations=2"],
    "test.py configs/sr_fista_tv.yaml": ["model.iterations=2"],
    "test.py sr_lorun_x2": ["--data", "builtin[0:1]"],
    "scripts/score_signals.py": ["--seeds", "1", "--overrides", "model.iterations=2",
                                 "sampling.ratio=0.25"],
    "train.py configs/sr": ["data.crop_size=48", *ON_BSDS],
    "train.py configs/lgm_net.yaml": [*SMALL_LGM, *ON_BSDS],
}  # fmt: skip
SHORT = ["training.minutes=0", "training.epochs=1", "training.steps_per_epoch=2",
         "training.milestones=[]", "training.compile=false", "training.validate_every=2",
         "training.batch_size=2", "data.workers=0", "evaluation.datasets=[]"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run: small images in the places that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    held = (PROJECT / "configs/validation/bsds500.txt").read_text(encoding="utf-8").split("\n")
    names = [name for name in held if name.endswith(".jpg")]
    sets = {
        "data/Set11": 3, "data/LIVE29": 2, "data/Urban100": 2, "data/extra": 2,
        "data/train/more": 2,
        "path/to/images": 2, "path/to/others": 1, "path/to/slices": 1, "data/ct/train": 2,
        "data/ct/test": 1, "BSD68_rgb_10": 1,
    }  # fmt: skip
    for k, (name, count) in enumerate(sets.items()):
        side = (96, 96) if "ct/" in name else (320, 320) if "path" in name else (64, 96)
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture = smooth_image(*side, 100 * k + number)
            cv2.imwrite(str(folder / name / f"{number}.png"), picture)
    (folder / "data/BSDS500").mkdir()
    for k, name in enumerate([*names, "12003.jpg", "302003.jpg", "1.jpg", "2.jpg"]):
        cv2.imwrite(str(folder / "data/BSDS500" / name), smooth_image(96, 128, 1000 + k))
    (folder / "data/Set5").mkdir()
    for name in ("bird_GT.png", "head_GT.png"):
        cv2.imwrite(str(folder / "data/Set5" / name), np.dstack([smooth_image(60, 90)] * 3))
    cv2.imwrite(str(folder / "photo.png"), smooth_image(50, 70))
    random = np.random.default_rng(0)
    signs = random.choice([-1, 1], size=(103, 1024)).astype(np.int8)
    np.save(folder / "my_phi.npy", signs)
    np.save(folder / "phi.npy", signs)
    np.savetxt(folder / "detector.csv", random.uniform(5, 100, 6 * 2 * 103))
    grid = re.search(r"```yaml\n(.*?)```", (PROJECT / "docs/ablate.md").read_text("utf-8"), re.S)
    tree = yaml.safe_load(grid[1])
    tree["seeds"], tree["grid"] = [1], {"model.D": tree["grid"]["model.D"]}
    tree["data"], tree["columns"] = ["Set11"], ["parameters", "Set11 psnr"]
    tree["overrides"] = [*SHORT, "data.crop_size=32"]
    shutil.copytree(PROJECT / "docs/experiments", folder / "docs/experiments")
    (folder / "my_grid.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder


def lookup(table: dict, command: str):
    """The value of the longest start of the command in the table, or None."""
    starts = [start for start in table if command.startswith(start)]
    return table[max(starts, key=len)] if starts else None


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_runs(command, folder, monkeypatch):
    if reason := lookup(SKIPPED, command):
        pytest.skip(reason)
    program, *words = shlex.split(command)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LGMNET_DATA", raising=False)
    monkeypatch.setattr(build, "START_BLOCKS", 2048)
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))  # as Python does for a script
    words = [name for word in words for name in expanded(word, folder)]
    training = "train" in (program.removesuffix(".py"), *words[:1])
    added = lookup(ADDED, command) or []
    if training:
        words += SHORT + added
    elif added and "=" in added[0]:  # settings come before options with several values
        words[1:1] = added
    else:
        words += added
    if program == "lgmnet":
        assert main(words) == 0
    else:
        assert run_main(program, words, monkeypatch) == 0


def expanded(word, folder):
    """The files of a pattern; the word itself if there are none."""
    found = folder.glob(word) if "*" in word else ()
    names = [str(path.relative_to(folder)) for path in found if not path.name.startswith(".")]
    return sorted(names) or [word]


def test_only_printed_commands_are_excused():
    assert len(COMMANDS) > 60
    for start in (*SKIPPED, *ADDED):
        assert any(command.startswith(start) for command in COMMANDS), start
