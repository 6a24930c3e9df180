"""Download weights from the Hugging Face hub. Only this module uses the hub."""

from pathlib import Path

# Files of a folder of weights. Other files of a repository are not downloaded.
FILES = ["*.safetensors", "*.yaml", "*.json", "*.jsonl", "*.csv", "README.md"]
PREFIX = "hf:"


class HubError(ValueError):
    """The hub cannot be used; the message says why and what to do."""


def pull(name: str) -> Path:
    """The local copy of ``owner/name`` or ``owner/name@revision``; downloads it if needed.

    No downloaded code is executed: weights are safetensors, configs are YAML.

    Raises:
        HubError: huggingface_hub is not installed, the repository does not exist, or there is no
            connection.
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
    except (OSError, ValueError) as error:  # the base classes of the hub's errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise HubError(
            f"cannot download {repository} ({type(error).__name__}: {reason}); check the name and "
            "the connection; for a private repository run hf auth login"
        ) from None
