"""What the package stands on: licences of the tested versions, and no network at run time."""

import importlib.metadata
import re
import socket

import pytest

from tests.commands import Command, write_config
from tests.conftest import PROJECT
from tests.disk import call

# Words of licences that let everybody use, change and pass on; LGPL and GPL are not among them.
FREE = (
    "MIT", "BSD", "Apache", "PSF", "Python Software Foundation", "ISC", "MPL", "Mozilla", "HPND",
    "Unlicense", "zlib", "CC0", "Public Domain",
)  # fmt: skip
CONSTRAINTS = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PACKAGES = [line.partition("==")[0] for line in CONSTRAINTS if line and line[0] != "#"]


def licence(package):
    """What a distribution says of its licence: the expression, the text, the classifiers."""
    about = importlib.metadata.metadata(package)
    said = [about.get("License-Expression") or "", (about.get("License") or "")[:200]]
    said += [text for text in about.get_all("Classifier", []) if text.startswith("License")]
    return " ".join(said)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_dependency_has_a_free_licence(package):
    try:
        text = licence(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed here")
    assert any(word in text for word in FREE), f"{package}: {text}"
    assert not re.search(r"(?<!L)GPL|General Public", text), f"{package}: {text}"


def test_constraints_are_exact_and_in_order():
    lines = [line for line in CONSTRAINTS if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert len(set(PACKAGES)) == len(PACKAGES)


def test_hashes_are_of_the_versions_of_the_constraints():
    """Each version has at least one hash; uv writes names in lower case with hyphens."""

    def normal(line):
        name, _, version = line.partition("==")
        return f"{re.sub('[-_.]+', '-', name).lower()}=={version}"

    text = (PROJECT / "constraints-hashes.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    locked = [entry.split(" ", 1)[0] for entry in entries]
    assert len(set(locked)) == len(locked)
    assert set(locked) == {normal(line) for line in CONSTRAINTS if line and line[0] != "#"}
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry


def refuse(*arguments, **options):
    raise AssertionError(f"the network was used: {arguments}")


def refuse_all():
    """Python's ways out of the process; the sockets of the parent are open already."""
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        setattr(socket, name, refuse)
    socket.socket.connect = refuse
    socket.socket.connect_ex = refuse


def test_training_uses_no_network(tmp_path):
    config = write_config(tmp_path, {"evaluation": {"datasets": ["builtin"]}})
    arguments = [config, "--device", "cpu", "--output", tmp_path / "run"]
    command = Command(arguments, tmp_path / "out.txt", before=refuse_all)
    assert command.wait() == 0, command.text()
    assert (tmp_path / "run" / "metrics.json").exists()


def test_scoring_measuring_and_rebuilding_use_no_network(tmp_path, weights, photo, monkeypatch):
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    y, cpu = tmp_path / "y.safetensors", ["--device", "cpu"]
    for script, arguments in (
        ("test.py", [weights, *cpu, "--data", photo.parent, "--output", tmp_path / "out"]),
        ("scripts/measure.py", [photo, "--weights", weights, *cpu, "--output", y]),
        ("scripts/reconstruct.py", [y, "--weights", weights, *cpu, "--output", tmp_path / "x.png"]),
    ):
        code, text = call(script, arguments)
        assert code == 0, text


def test_a_network_that_is_asked_for_is_seen_by_this_test(tmp_path, monkeypatch):
    """The refusal above works: a download does call it."""
    from lgmnet.data import download

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(AssertionError, match="the network was used"):
        download.download("http://127.0.0.1:9/x", tmp_path / "x")
