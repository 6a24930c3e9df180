"""What is installed works from anywhere: a wheel brings weights and configs with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import lgmnet
from lgmnet.config import ConfigError, load_config
from lgmnet.project import provenance
from lgmnet.training.images import open_data
from lgmnet.weights.files import SUMS, read_sums
from tests.conftest import PROJECT, smooth_image

BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
USE = """
import json, torch, lgmnet
from pathlib import Path
from lgmnet.config import load_config
from lgmnet.training.images import open_data
from lgmnet.project import provenance
image = torch.rand(1, 1, 32, 64)
quickstart = load_config(Path("configs/quickstart.yaml"), ["training.rate=1e-3"],
                         [Path("configs/budget.yaml")])
print(json.dumps({
    "file": lgmnet.__file__,
    "available": [weights.name for weights in lgmnet.available()],
    "shape": lgmnet.load("lgm_net_tiny_r0.10")(image).image.shape,
    "fista": lgmnet.load("configs/fista.yaml").measure(image).shape,
    "minutes": quickstart.training.minutes,
    "held out": len(open_data(load_config(Path("configs/quickstart.yaml"))).validation.names),
    "commit": provenance()["commit"],
}))
"""


HELP = """
import runpy, sys
from pathlib import Path
base = [path for path in sys.path if path]
for script in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lgmnet"]:
        del sys.modules[name]
    sys.path, sys.argv = [str(Path(script).parent), *base], [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, script
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel that a source distribution of this project makes, installed by pip."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("lgmnet", "checkpoints", "configs", "data/checksums"):
        shutil.copytree(PROJECT / name, folder / "clone" / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder / "clone")
    shutil.copytree(PROJECT / "checkpoints" / "lgm_net_tiny_r0.10",
                    folder / "clone" / "checkpoints" / "of_others")  # fmt: skip
    run(sys.executable, "-c", BUILD.format("sdist"), folder, cwd=folder / "clone")
    shutil.unpack_archive(next(folder.glob("*.tar.gz")), folder / "source")
    source = next((folder / "source").iterdir())
    run(sys.executable, "-c", BUILD.format("wheel"), folder, cwd=source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, "--target", folder / "installed", next(folder.glob("*.whl")))
    return folder / "installed"


@pytest.fixture
def thesis(tmp_path):
    """Somebody's own git repository."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", tmp_path]
    run(*git, "init", "--quiet")
    run(*git, "commit", "--quiet", "--allow-empty", "--message", "start")
    return tmp_path


def test_a_wheel_has_weights_and_configs_and_knows_its_version(installed, thesis):
    package = shutil.copytree(installed, thesis / "site-packages")
    environment = {**os.environ, "PYTHONPATH": str(package), "GIT_DIR": str(thesis / ".git")}
    found = json.loads(run(sys.executable, "-c", USE, cwd=thesis, env=environment))
    assert found == {
        "file": str(package / "lgmnet" / "__init__.py"),
        "available": sorted(
            Path(file).parent.name for file in read_sums(PROJECT / "checkpoints" / SUMS)
        ),
        "shape": [1, 1, 32, 64],
        "fista": [1, 103, 1, 2],
        "minutes": 25,
        "held out": 2,
        "commit": lgmnet.__version__,
    }


def test_a_wheel_has_all_configs_and_no_weights_of_others(installed):
    """Weights with a line in SHA256SUMS, and all of their folder."""
    shipped = ("configs", "data/checksums", "checkpoints/lgm_net_tiny_all_ratios")
    for folder in map(PROJECT.joinpath, shipped):
        for file in folder.rglob("*.*"):
            assert (installed / "lgmnet" / file.relative_to(PROJECT)).exists()
    assert not (installed / "lgmnet" / "checkpoints" / "of_others").exists()
    assert (installed / f"lgmnet-{lgmnet.__version__}.dist-info").is_dir()


def test_a_wheel_has_the_program(installed, thesis):
    """From a folder that has nothing of the project."""
    program = [sys.executable, installed / "bin" / "lgmnet"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    cv2.imwrite(str(thesis / "photo.png"), smooth_image(50, 70))
    for command in (
        ["test", "--list"],
        ["prepare-data", "--list"],
        ["measure", "photo.png", "--output", "y.safetensors"],
        ["reconstruct", "y.safetensors", "--output", "out.png"],
        ["test", "--data", "photo.png"],
        ["train", "configs/quickstart.yaml", "training.minutes=0.01",
         "evaluation.datasets=photo.png"],
    ):  # fmt: skip
        assert run(*program, *command, cwd=thesis, env=environment)
    assert cv2.imread(str(thesis / "out.png"), cv2.IMREAD_UNCHANGED).shape == (50, 70)
    assert (thesis / "runs" / "quickstart_r0.10" / "metrics.json").is_file()


def test_a_clone_knows_its_commit_from_anywhere(thesis, monkeypatch):
    """Also where git calls this program, with a variable that names another repository."""
    expected = provenance()["commit"]
    monkeypatch.chdir(thesis)
    monkeypatch.setenv("GIT_DIR", str(thesis / ".git"))
    assert provenance()["commit"] == expected


def test_configs_are_found_by_their_usual_path_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("configs/quickstart.yaml"))
    assert config == load_config(PROJECT / "configs" / "quickstart.yaml")
    assert len(open_data(config).validation.names) == 2
    (tmp_path / "mine.yaml").write_text("base: configs/fista.yaml\nsampling: {ratio: 0.3}\n")
    assert load_config(Path("mine.yaml")).model.name == "fista"


def test_a_config_that_is_here_wins(tmp_path, monkeypatch):
    """With its own base beside it, or none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "fista.yaml").write_text("model: {name: ista}\nsampling: {ratio: 0.3}")
    assert load_config(Path("configs/fista.yaml")).model.name == "ista"
    with pytest.raises(ConfigError, match="there is no config file configs/none.yaml"):
        load_config(Path("configs/none.yaml"))


def test_every_command_works_in_a_clone_without_installation(tmp_path):
    """With -S and dependencies by PYTHONPATH nothing is read that names the clone."""
    commands = [PROJECT / "train.py", PROJECT / "test.py", *(PROJECT / "scripts").glob("*.py")]
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(dependencies)}
    found = run(sys.executable, "-S", "-c", HELP, *commands, cwd=tmp_path, env=environment)
    assert found.count("usage: ") == len(commands)
