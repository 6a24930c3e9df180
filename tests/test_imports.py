"""Which module or subpackage of lgmnet may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lgmnet"

# Every module may import these. They import nothing of lgmnet.
GROUND = {"arrays", "console", "files", "project", "registry"}
# Module or subpackage -> what it may import besides itself and GROUND.
ARROWS: dict[str, set[str]] = {
    **{name: set() for name in sorted(GROUND)},
    "conversion": set(),
    "data": set(),
    "metrics": set(),
    "complexity": set(),
    "report": set(),
    "results": {"report"},
    "operators": {"conversion"},
    "ranks": set(),
    "config": {"conversion", "operators"},
    "unfolding": {"operators"},
    "models": {"operators", "unfolding"},
    "interop": {"models", "operators"},
    "losses": {"models", "operators"},
    "runtime": {"data", "models", "ranks"},
    "build": {"config", "data", "models", "operators", "runtime", "unfolding"},
    "speed": {"complexity", "config", "models", "operators", "runtime", "unfolding"},
    "weights": {"build", "complexity", "config", "data", "models", "operators", "report", "runtime",
                "unfolding"},
    "evaluation": {"config", "data", "metrics", "models", "operators", "runtime", "speed",
                   "unfolding", "weights"},
    "training": {"build", "complexity", "config", "data", "evaluation", "losses", "metrics",
                 "models", "operators", "runtime", "speed", "weights"},
    "costs": {"build", "complexity", "config", "data", "models", "operators", "runtime", "speed",
              "training"},
    "reports": {"complexity", "config", "data", "evaluation", "metrics", "models", "operators",
                "report", "runtime", "weights"},
    "papers": {"complexity", "data", "evaluation", "metrics", "report", "reports", "results",
               "runtime", "weights"},
    "experiments": {"complexity", "config", "conversion", "operators", "weights"},
    "commands": {"build", "complexity", "config", "conversion", "costs", "data", "evaluation",
                 "experiments", "metrics", "models", "operators", "papers", "report", "reports",
                 "results", "runtime", "speed", "training", "weights"},
    "__main__": {"commands"},
    "__init__": {"speed", "weights"},
}  # fmt: skip


def top_level(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "lgmnet":
            names = [f"lgmnet.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        else:
            continue
        for name in names:
            if name.startswith("lgmnet."):
                yield name.split(".")[1]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path):
    own = top_level(path)
    allowed = ARROWS[own] | {own} | (set() if own in GROUND else GROUND)
    assert set(imported(path)) <= allowed


def test_no_import_is_circular():
    """Each entry imports only entries above it in the table."""
    names = list(ARROWS)
    for k, arrows in enumerate(ARROWS.values()):
        assert arrows <= set(names[:k])


def test_only_the_runtime_reads_the_environment():
    for path in FILES:
        if "environ" in path.read_text(encoding="utf-8"):
            assert path.name == "runtime.py", f"{path} reads the environment"


def test_no_file_is_longer_than_400_lines():
    long = [p.name for p in FILES if len(p.read_text(encoding="utf-8").splitlines()) > 400]
    assert not long


def test_import_is_quick_and_light():
    """After torch: at most two seconds of CPU time; no TensorBoard, torchvision or matplotlib."""
    code = (
        "import sys, time, torch; start = time.process_time(); "
        "from lgmnet import available, load, optimize_for_inference; "
        "print(time.process_time() - start); "
        "print([m for m in ('tensorboard', 'torchvision', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = run.stdout.splitlines()
    assert float(seconds) < 2
    assert heavy == "[]"
