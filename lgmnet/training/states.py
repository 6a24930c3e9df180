"""Training states: one file to resume from, written atomically."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lgmnet.config import PRECISIONS, Config, config_from_dict
from lgmnet.runtime import Runtime
from lgmnet.speed.precision import resolve_precision as precision_of
from lgmnet.weights.files import CheckpointError, write_atomically
from lgmnet.weights.foreign import require_stored
from lgmnet.weights.tensor_files import damaged, read_metadata


def finished_step(folder: Path) -> int:
    """The step of the final weights of a run; -1 if not all of them are written."""
    try:
        return int(read_metadata(folder / "last.safetensors").get("step", -1))
    except CheckpointError:
        return -1


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state. The previous state stays until the new one was read back."""

    def write(temporary: Path) -> None:
        torch.save(dict(state), temporary)
        require_intact(temporary)

    write_atomically(path, write)


def require_intact(path: Path) -> None:
    """Compare the entries of a state with their checksums (CRC-32); torch.load does not.

    Raises:
        RuntimeError: a checksum is wrong, or the file is no state.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error, ValueError) as error:
        raise RuntimeError(str(error)) from None
    if entry:
        raise RuntimeError(f"the checksum of its entry {entry} is wrong")


def load_training_state(path: Path, config: Config) -> dict[str, Any]:
    """Read a training state with the same network and sampling.

    Raises:
        CheckpointError: the state is missing, damaged, or of another model.
    """
    if not path.is_file():
        raise CheckpointError(
            f"there is no state {path} to resume from; start without --resume, or name the run "
            "folder with --output"
        )
    try:
        require_stored(path)
        require_intact(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise CheckpointError(damaged(path, error)) from None
    if not isinstance(state, dict) or not {"config", "model", "step"} <= state.keys():
        raise CheckpointError(f"{path} is not a training state of lgmnet; name a run folder")
    saved = config_from_dict(json.loads(state["config"]))
    theirs, ours = saved.as_dict(), config.as_dict()
    for section in ("model", "sampling", "lora", "training"):
        was_all, now_all = (tree.get(section, {}) for tree in (theirs, ours))
        keys = {"optimizer"} if section == "training" else was_all.keys() | now_all.keys()
        for key in sorted(keys):
            was, now = (tree.get(key, "its default") for tree in (was_all, now_all))
            if was != now:
                raise CheckpointError(
                    f"{path} was trained with {section}.{key} = {was}, but the config says {now}; "
                    "resume with the config of the run folder, or choose another folder"
                )
    return state


def resolve_precision(
    config: Config, here: Runtime, state: Mapping[str, Any] | None = None
) -> Config:
    """``config`` with ``training.precision: auto`` resolved: as in the state, or for this device.

    With several processes the main process decides.
    """
    settings, precision = config.training, config.training.precision
    if precision == "auto" and state:
        precision = config_from_dict(json.loads(state["config"])).training.precision
    precision = precision_of(precision, here.device)
    precision = PRECISIONS[int(here.agree(PRECISIONS.index(precision)))]
    return replace(config, training=replace(settings, precision=precision))


def changed_code(state: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """The commit and versions that differ from those of a saved state, as text."""
    if "provenance" not in state:  # as one of an older version
        return []
    was = json.loads(state["provenance"])
    return [
        f"{key} {was.get(key)} -> {value}" for key, value in now.items() if was.get(key) != value
    ]


def changed_settings(state: Mapping[str, Any], config: Config) -> list[str]:
    """The settings of ``training`` and ``data`` that differ from a saved state, as text."""
    theirs = config_from_dict(json.loads(state["config"])).as_dict()
    ours = config.as_dict()
    return [
        f"{section}.{key} {theirs[section][key]} -> {value}"
        for section in ("training", "data")
        for key, value in ours[section].items()
        if theirs[section][key] != value
    ]
