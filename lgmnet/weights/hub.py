"""Folders of weights on the Hugging Face hub: the only place that knows it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

# What a folder of weights may hold; states to resume from and curves for TensorBoard stay here.
FILES = ["*.safetensors", "*.yaml", "*.json", "*.jsonl", "*.csv", "README.md"]
PREFIX = "hf:"


class HubError(ValueError):
    """The hub cannot be used; the message says why and what to do."""


def pull(name: str) -> Path:
    """The local copy of ``owner/name`` or ``owner/name@revision``, fetched unless it is there.

    Nothing that is fetched is run: weights are safetensors, configs are YAML.

    Raises:
        HubError: no huggingface_hub here, no such repository, or no connection.
    """
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    return Path(
        _ask(
            f"fetch {repository}",
            "snapshot_download",
            repo_id=repository,
            revision=revision or None,
            allow_patterns=FILES,
        )
    )


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a folder of weights to ``owner/name``, made if it is not there; returns its address.

    Raises:
        HubError: no weights in the folder, no huggingface_hub here, or the hub refuses.
    """
    if not list(folder.glob("*.safetensors")):
        raise HubError(f"{folder} holds no .safetensors file; name a run folder or a checkpoint")
    doing = f"push to {repository}"
    _ask(doing, "create_repo", repo_id=repository, private=private, exist_ok=True)
    done = _ask(
        doing, "upload_folder", repo_id=repository, folder_path=folder, allow_patterns=FILES
    )
    return str(done)


def _ask(doing: str, function: str, **arguments: Any) -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise HubError(
            "the hub needs huggingface_hub: pip install -c constraints.txt -e '.[hub]'"
        ) from None
    call: Callable[..., Any] = getattr(huggingface_hub, function)
    try:
        return call(**arguments)
    except (OSError, ValueError) as error:  # its own errors are all one of the two
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise HubError(
            f"cannot {doing} ({type(error).__name__}: {reason}); check the name, the connection, "
            "and for private repositories hf auth login"
        ) from None
