"""Every command that writes, on a disk that is full or read-only; run by tests/test_disk.py.

    unshare -rm python tests/disk.py FOLDER COMMAND ...

In a mount namespace of its own, FOLDER/disk becomes a small disk. Prints one JSON line per case:
command, case, exit code, what it printed, and which files changed.
"""

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgmnet.build import build_model
from lgmnet.weights.saved import save_weights
from tests.commands import write_config
from tests.conftest import PROJECT, smooth_image, tiny_config

SIZE = 6_000_000


def main() -> None:
    folder, chosen = Path(sys.argv[1]), sys.argv[2:]
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)], check=True)
    prepared = prepare(folder, disk)
    commands = {name: prepared[name] for name in chosen}
    for name, (script, arguments, _) in commands.items():  # what will have to stay as it is
        code, text = call(script, arguments)
        assert not code, f"{name}: {text}"
    for case, break_disk, mend_disk in (
        ("full", fill, lambda d: (d / "fill").unlink()),
        ("read-only", lambda d: remount(d, "ro"), lambda d: remount(d, "rw")),
    ):
        for name, (script, arguments, again) in commands.items():
            before = content(disk)
            break_disk(disk)
            code, text = call(script, [*arguments, *again])
            mend_disk(disk)
            changed = difference(before, content(disk))
            print(json.dumps([name, case, code, text, changed]), flush=True)


def prepare(folder: Path, disk: Path) -> dict:
    """Commands with what each writes below ``disk``; some need another option the second time."""
    config = tiny_config(sampling={"phi_init": "orthonormal"}, model={"phity_skip": True})
    weights = folder / "weights" / "model.safetensors"
    save_weights(weights, build_model(config), config)
    (weights.parent / "log.jsonl").write_text('{"step": 1, "kind": "train", "mse": 1.0}\n' * 3)
    images = folder / "pictures"
    images.mkdir()
    for k in range(2):
        cv2.imwrite(str(images / f"{k}.png"), smooth_image(70, 90, k))
    tiny = write_config(folder, {"training": {"steps_per_epoch": 2}})
    longer = ["--resume", "training.steps_per_epoch=4"]
    measured = folder / "y.safetensors"
    assert not call("scripts/measure.py", [images / "0.png", "--weights", weights,
                                           "--output", measured])[0]  # fmt: skip
    cpu = ["--device", "cpu"]
    return {
        "train": ("train.py", [tiny, *cpu, "--output", disk / "run"], longer),
        "test": ("test.py", [weights.parent, *cpu, "--data", images, "--output", disk / "scores"],
                 ["--noise-std", "0.1"]),
        "pictures": ("test.py", [weights.parent, *cpu, "--data", images, "--output",
                                 disk / "shown", "--save-images"], ["--noise-std", "0.1"]),
        "measure": ("scripts/measure.py", [images / "1.png", "--weights", weights, "--output",
                                           disk / "y.safetensors"], []),
        "reconstruct": ("scripts/reconstruct.py", [measured, "--weights", weights, "--output",
                                                   disk / "x.png"], []),
        "export weights": ("scripts/export_weights.py", [weights.parent, "--output",
                                                         disk / "w" / "exported"], []),
        "plot": ("scripts/plot_runs.py", [weights.parent, "--output", disk / "plot.png"], []),
        "pack": ("scripts/prepare_data.py", ["--pack", images, disk / "x.luma"], []),
    }  # fmt: skip


def call(script: str, arguments: list) -> tuple[int, str]:
    """Exit code and output of a script, run in this process."""
    spec = importlib.util.spec_from_file_location("script", PROJECT / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.argv = [script, *map(str, arguments)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = module.main()
    return code, said.getvalue()


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def content(disk: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(disk)): path.read_bytes()
        for path in sorted(disk.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    }


def difference(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Names of files that came, went, or are others."""
    return [k for k in sorted(before | after) if before.get(k) != after.get(k)]


if __name__ == "__main__":
    main()
