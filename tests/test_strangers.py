"""Files and servers of strangers: bounded time and memory, no code run, an error that says what.

Each file is made here and read by the function that reads it. The limits are those of the code.
"""

import io
import os
import pickle
import random
import resource
import socket
import socketserver
import threading
import time
import zipfile
from contextlib import contextmanager, suppress
from http.client import HTTPMessage
from urllib.request import Request

import numpy as np
import pytest
import scipy.io
import torch

from lgmnet import arrays
from lgmnet.config import ConfigError, load_config
from lgmnet.data import download, limits
from lgmnet.data.catalogue import Dataset, DownloadError, Entry
from lgmnet.data.download import ArchiveError, install
from lgmnet.operators.matrices import load_matrix
from lgmnet.training import states
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.foreign import load_foreign
from tests.conftest import tiny_config
from tests.test_bits import KINDS, same

MIB = 2**20


@contextmanager
def bounded(seconds=5.0, mib=200):
    """Time of this process, and how much its largest memory grows, in MiB."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begun < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < mib


def npy(shape, descr="<f8", body=b""):
    """The bytes of an .npy file whose header may lie."""
    header = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return path


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def huge(folder):
    (folder / "m.npy").write_bytes(npy((10**7, 10**5)))


def too_short(folder):
    (folder / "m.npy").write_bytes(npy((1000, 1000), body=bytes(80)))


def pickled(folder):
    (folder / "m.npy").write_bytes(npy((1,), "|O", pickle.dumps([Trap()])))


def npz_bomb(folder):
    with zipfile.ZipFile(folder / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open(
        "phi.npy", "w", force_zip64=True
    ) as file:  # fmt: skip
        file.write(npy((1000, 10000)))
        for _ in range(80):
            file.write(bytes(MIB))


def mat_bomb(folder):
    """A compressed matrix whose header says 40,000 x 40,000."""
    small = io.BytesIO()
    scipy.io.savemat(small, {"phi": np.zeros((7, 9))})
    content = small.getvalue()
    size = np.array([7, 9], np.int32).tobytes()
    assert content.count(size) == 1
    lie = np.array([40000, 40000], np.int32).tobytes()
    (folder / "m.mat").write_bytes(content.replace(size, lie))


@pytest.mark.parametrize("make", [huge, too_short, pickled, npz_bomb, mat_bomb])
def test_a_matrix_that_lies_is_refused(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arrays, "LARGEST", 50 * MIB)
    make(tmp_path)
    [path] = tmp_path.iterdir()
    with bounded(5, 40), pytest.raises(ValueError, match=path.name):
        load_matrix(path)
    assert not (tmp_path / "trapped").exists()


def test_layers_of_matlab_that_unpack_to_much_are_refused(tmp_path, monkeypatch):
    """Two layers with the same weights: 36 MiB each, in a file of less than one."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(arrays, "LARGEST", 50 * MIB)
    with h5py.File(tmp_path / "bomb.mat", "w") as file:
        file["type"] = np.array([ord(letter) for letter in "Rec"])
        weights = file.create_dataset("w", (3000, 1500), "<f8", chunks=True, compression="gzip")
        weights[:] = 0
        cell = file.create_dataset("cell", (1,), h5py.ref_dtype)
        cell[0] = weights.ref
        layer = file.create_group("layer")
        layer["type"], layer["weights"] = file["type"], cell
        layers = file.create_dataset("net/layers", (2,), h5py.ref_dtype)
        layers[0] = layers[1] = layer.ref
    assert (tmp_path / "bomb.mat").stat().st_size < MIB
    with bounded(2, 30), pytest.raises(CheckpointError, match=r"bomb\.mat .*take 0\.1 GiB, more"):
        load_foreign(tmp_path / "bomb.mat")


def test_an_archive_of_many_images_that_hardly_compress_is_read(tmp_path, monkeypatch):
    """Sets of images are larger than any Φ: the limit grows with the file."""
    monkeypatch.setattr(arrays, "LARGEST", MIB)
    images = np.random.default_rng(0).integers(0, 256, (20, 256, 256), np.uint8)
    np.savez_compressed(tmp_path / "set.npz", images=images)
    assert np.array_equal(arrays.read_arrays(tmp_path / "set.npz")["images"], images)


def test_a_compressed_state_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"a": torch.zeros(2 * 10**7)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole:
        zipped(tmp_path / "bomb.pt", {n: whole.read(n) for n in whole.namelist()})
    assert (tmp_path / "bomb.pt").stat().st_size < MIB
    with bounded(2, 50), pytest.raises(CheckpointError, match=r"bomb\.pt"):
        load_foreign(tmp_path / "bomb.pt")
    with bounded(2, 50), pytest.raises(CheckpointError, match=r"bomb\.pt .*is compressed"):
        states.load_training_state(tmp_path / "bomb.pt", tiny_config())


def test_a_tensor_that_repeats_its_values_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**5)}, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 10_000
    with bounded(2, 50), pytest.raises(CheckpointError, match=r"a in .*x\.pt repeats its values"):
        load_foreign(tmp_path / "x.pt")


YAML = {
    "depth": "[" * 100_000,
    "length": "a: " + "x" * 10**7,
    "many keys": "\n".join(f"k{k}: 1" for k in range(200_000)),
    "many items": "a: [" + "1," * 60_000 + "]",
    "digits": "training: {seed: " + "9" * 5000 + "}",
    "code": "training: !!python/object/apply:os.mkdir [trapped]",
    "date": "training: {start: 2001-99-99}",
    "zero byte": "a: \x00",
    "list as key": "? [a, b]\n: 1",
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")),  # noqa: B905
}


@pytest.mark.parametrize("kind", YAML)
def test_a_hostile_yaml_is_a_config_error(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(YAML[kind])
    with bounded(15), pytest.raises(ConfigError):
        load_config(tmp_path / "x.yaml", [])
    assert not (tmp_path / "trapped").exists()


LINK = zipfile.ZipInfo("link")
LINK.external_attr = 0o120777 << 16
ARCHIVES = {
    "nothing": {},
    "only __MACOSX": {"__MACOSX/x.png": b"1"},
    "above": {"../x.png": b"1"},
    "root": {"/x.png": b"1"},
    "drive": {"C:x.png": b"1"},
    "backslash": {"..\\x.png": b"1"},
    "no name": {"": b"1"},
    "dot": {".": b"1"},
    "slash": {"/": b""},
    "long name": {"x" * 300: b"1"},
    "depth": {"a/" * 3000 + "x": b"1"},
    "file and folder": {"a": b"1", "a/b": b"2"},
    "bomb": {"x.png": bytes(50 * MIB)},
}


def from_archive(folder, members):
    source = folder / "source"
    source.mkdir()
    zipped(source / "S.zip", members)
    entry = Entry("S.zip", "", "", "")
    return lambda: install(Dataset("S", ("x",), (entry,)), folder / "root", source)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_hostile_archive_leaves_nothing(kind, tmp_path):
    installing = from_archive(tmp_path, ARCHIVES[kind])
    with bounded(), pytest.raises(DownloadError, match="S"):
        installing()
    left = [p for p in (tmp_path / "root").rglob("*") if p.is_file() or p.name == "S"]
    assert not left
    assert {p.name for p in tmp_path.iterdir()} == {"source", "root"}


def test_a_link_in_an_archive_is_refused(tmp_path):
    (tmp_path / "source").mkdir()
    with zipfile.ZipFile(tmp_path / "source" / "S.zip", "w") as archive:
        archive.writestr(LINK, "/etc")
    with pytest.raises(ArchiveError, match="'link' is a link"):
        download.unpack(tmp_path / "source" / "S.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline().strip():
            pass
        with suppress(BrokenPipeError, ConnectionResetError):
            self.server.answer(self.wfile)


@contextmanager
def serving(answer):
    """A server that answers every request by a function, which writes what it likes."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads, server.answer = True, answer
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/x.png"
        finally:
            server.shutdown()
            thread.join()


def drops(stream):
    stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(2000):
        stream.write(b"x")
        time.sleep(0.02)


def endless(stream):
    stream.write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(2000):
        stream.write(bytes(MIB))


def huge_length(stream):
    stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 300 + b"\r\n\r\n")


def no_number(stream):
    stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nx")


def too_little(stream):
    stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")


def circle(stream):
    stream.write(b"HTTP/1.1 302 Found\r\nLocation: /x.png\r\n\r\n")


def to_a_file(stream):
    stream.write(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n")


def no_http(stream):
    stream.write(b"\x00" * 1000)


def slow_headers(stream):
    stream.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(1000):
        stream.write(b"x")
        time.sleep(0.02)


def long_header(stream):
    stream.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (drops, "less than 1000 bytes per second"),
        (endless, "sends more than 0.02 GB for one file"),
        (huge_length, "sends more than 0.02 GB for one file"),
        (no_number, "the length 'many', expected a number"),
        (too_little, "broke off"),
        (circle, "redirect"),
        (to_a_file, "not allowed"),
        (no_http, "http://127"),
        (long_header, "http://127"),
        (slow_headers, "did not send its headers within 0.3 s"),
    ],
)
def test_a_hostile_server_ends_in_an_error(answer, said, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    monkeypatch.setattr(limits, "WINDOW_S", 0.3)
    monkeypatch.setattr(limits, "LARGEST_FILE", 20_000_000)
    monkeypatch.setenv("no_proxy", "*")
    with serving(answer) as url:
        entry = Entry("x.png", url, "0" * 64, "")
        begun = time.monotonic()
        with pytest.raises(DownloadError, match=said):
            install(Dataset("S", ("x",), (entry,)), tmp_path / "root")
        assert time.monotonic() - begun < 20
    assert not (tmp_path / "root" / "S").exists()


@pytest.mark.parametrize("target", ["http://a.org/x.png", "HTTP://a.org/x", "ftp://a.org/x"])
def test_a_redirect_that_leaves_https_is_refused(target):
    request, handler = Request("https://a.org/x.png"), limits._Redirects()
    with pytest.raises(DownloadError, match="which is not encrypted"):
        handler.redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), target)
    followed = handler.redirect_request(
        request, io.BytesIO(), 302, "Found", HTTPMessage(), "https://b.org/x.png"
    )
    assert followed.full_url == "https://b.org/x.png"


def test_a_server_that_never_answers_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    monkeypatch.setattr(download, "TIMEOUT_S", 0.3)
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.png"
        with pytest.raises(DownloadError, match="timed out"):
            download.download(url, tmp_path / "part")


def damage(content, draw):
    """Cut, zeros, noise, doubled or longer: what happens to files on their way."""
    place = draw.randrange(len(content))
    end = min(len(content), place + draw.randrange(1, 200))
    kind = draw.randrange(5)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes(end - place) + content[end:]
    if kind == 2:
        return content[:place] + draw.randbytes(end - place) + content[end:]
    if kind == 3:
        return content[:place] + content[place:end] * 2 + content[end:]
    return content + draw.randbytes(end - place)


def damaged(folder, kind, count, seed):
    """Damage a file in many ways: each is refused by name, or means nothing."""
    path = folder / kind
    read = KINDS[kind](path)
    expected, content, draw = read(), path.read_bytes(), random.Random(seed)
    refused = 0
    for _ in range(count):
        path.write_bytes(damage(content, draw))
        try:
            found = read()
        except ValueError as error:  # CheckpointError and ImageError are some
            refused += path.stem in str(error)
        else:
            assert same(found, expected)
    return refused


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "adapters" not in kind])
def test_a_damaged_file_is_refused_by_name(kind, tmp_path):
    assert damaged(tmp_path, kind, 15, seed=3) >= 6


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "adapters" not in kind])
def test_a_file_damaged_in_500_ways_is_refused_by_name(kind, tmp_path):
    refused = damaged(tmp_path, kind, 500, seed=4)
    print(f"{kind}: {refused} of 500 refused, the others meant nothing")
    assert refused >= 200
