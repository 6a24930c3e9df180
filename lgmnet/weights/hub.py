"""Weights on the Hugging Face hub. No other module knows the hub."""

from pathlib import Path

# What a folder of weights may hold. Other files of a repository are not fetched.
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
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise HubError(
            "the hub needs huggingface_hub: pip install -c constraints.txt -e '.[hub]'"
        ) from None
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    try:
        return Path(
            snapshot_download(repo_id=repository, revision=revision or None, allow_patterns=FILES)
        )
    except (OSError, ValueError) as error:  # its own errors are all one of the two
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise HubError(
            f"cannot fetch {repository} ({type(error).__name__}: {reason}); check the name, the "
            "connection, and for private repositories hf auth login"
        ) from None
