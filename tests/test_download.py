"""Data sets are installed whole and verified, or not at all. Only a local server is asked."""

import errno
import hashlib
import os
import shutil
import stat
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lgmnet.commands import call, prepare_data
from lgmnet.data import catalogue, download
from lgmnet.data.catalogue import Dataset, DownloadError, Entry
from lgmnet.data.download import ChecksumError, install

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "data" / "checksums"
BODY = bytes(range(256)) * 40


class Server(ThreadingHTTPServer):
    """Serves ``files`` and remembers the requests; it can ignore ranges, break off, be busy."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # name, Range header
        self.ranges = True
        self.shift = 0  # bytes that a range begins too early
        self.break_after: int | None = None  # bytes of the next body, once
        self.busy: list[int] = []  # HTTP states to answer with first

    def add(self, name: str, body: bytes = BODY, known: bool = True) -> Entry:
        self.files[name] = body
        return Entry(name, self.url(name), sha256(body) if known else "", "")

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, asked = self.path.lstrip("/"), self.headers["Range"]
        self.server.requests.append((name, asked))
        body = self.server.files.get(name)
        start = int(asked[len("bytes=") : -1]) if asked and self.server.ranges else 0
        if self.server.busy:
            self.send_error(self.server.busy.pop())
        elif body is None:
            self.send_error(404)
        elif start and start >= len(body):
            self.answer(416, f"bytes */{len(body)}", b"")
        elif start:
            start -= self.server.shift
            self.answer(206, f"bytes {start}-{len(body) - 1}/{len(body)}", body[start:])
        else:
            self.answer(200, "", body)

    def answer(self, status: int, content_range: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.break_after])
        self.server.break_after = None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def prepare(*arguments) -> int:
    return call("prepare-data", [str(argument) for argument in arguments])


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def dataset(*entries: Entry) -> Dataset:
    return Dataset("Small", ("a small data set", "Ask the authors."), entries)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def write(path: Path, body: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def zipped(folder: Path, **members: bytes) -> bytes:
    made = folder / "made.zip"
    with zipfile.ZipFile(made, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    body = made.read_bytes()
    made.unlink()
    return body


def image(extension: str, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return cv2.imencode(extension, pixels)[1].tobytes()


def entry_by_pixels(url: str, folder: Path) -> Entry:
    """``x.png``, listed with the SHA-256 of another encoder and with that of the pixels."""
    reference = write(folder / "reference.png", image(".png"))
    return Entry("x.png", url, "0" * 64, download.pixels_sha256(reference))


def test_files_are_downloaded_and_then_left_alone(server: Server, tmp_path: Path) -> None:
    small = dataset(server.add("a.png"), server.add("sub/b.png", b"other"))
    assert "installed 2 files" in install(small, tmp_path)
    assert "complete" in install(small, tmp_path)
    assert len(server.requests) == 2
    assert everything(tmp_path) == ["Small/a.png", "Small/sub/b.png"]
    assert (tmp_path / "Small" / "a.png").read_bytes() == BODY


def test_only_missing_files_are_downloaded(server: Server, tmp_path: Path) -> None:
    write(tmp_path / "Small" / "a.png", BODY)
    write(tmp_path / "Small" / "mine.txt", b"kept")
    install(dataset(server.add("a.png"), server.add("sub/b.png", b"other")), tmp_path)
    assert server.requests == [("sub/b.png", None)]
    assert everything(tmp_path) == ["Small/a.png", "Small/mine.txt", "Small/sub/b.png"]


def test_resume_asks_for_the_missing_bytes_only(server: Server, tmp_path: Path) -> None:
    write(tmp_path / ".Small.partial" / "a.png.part", BODY[:1000])
    install(dataset(server.add("a.png")), tmp_path)
    assert server.requests == [("a.png", "bytes=1000-")]
    assert (tmp_path / "Small" / "a.png").read_bytes() == BODY


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_tried_again(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges, server.break_after = ranges, 3000
    install(dataset(server.add("a.png")), tmp_path)
    assert server.requests == [("a.png", None), ("a.png", "bytes=3000-")]
    assert (tmp_path / "Small" / "a.png").read_bytes() == BODY


def test_bytes_from_another_place_are_not_appended(server: Server, tmp_path: Path) -> None:
    server.shift, server.break_after = 100, 3000
    with pytest.raises(DownloadError, match="did not send the range from byte 3000"):
        install(dataset(server.add("a.png", known=False)), tmp_path)
    assert visible(tmp_path) == []


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("old", [BODY, BODY + b"too long", b"stale", b"!" * len(BODY)])
def test_an_old_part_is_handled(server: Server, tmp_path: Path, old: bytes, known: bool) -> None:
    body = BODY if known else image(".png")
    write(tmp_path / ".Small.partial" / "a.png.part", old)
    install(dataset(server.add("a.png", body, known)), tmp_path)
    assert (tmp_path / "Small" / "a.png").read_bytes() == body
    assert visible(tmp_path / "Small") == ["a.png"]


def test_a_missing_file_is_an_error_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"gone\.png: HTTP Error 404.*--from DIR"):
        install(dataset(Entry("gone.png", server.url("gone.png"), "", "")), tmp_path)
    assert len(server.requests) == 1
    assert visible(tmp_path) == []


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.busy = [503, 429]
    install(dataset(server.add("a.png")), tmp_path)
    server.busy = [503] * download.ATTEMPTS
    with pytest.raises(DownloadError, match=r"503.*\(4 attempts\); run the same command again"):
        install(dataset(server.add("a.png"), server.add("b.png")), tmp_path)


def test_a_silent_server_times_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(Handler, "do_GET", lambda _: threading.Event().wait(0.2))
    with pytest.raises(DownloadError, match="timed out"):
        install(dataset(server.add("a.png")), tmp_path)


def test_a_mismatch_says_both_checksums(server: Server, tmp_path: Path) -> None:
    right = server.add("a.png")
    wrong = Entry("b.png", right.url, "1" * 64, "")
    with pytest.raises(ChecksumError, match=f"{sha256(BODY)}.*{'1' * 64}"):
        install(dataset(right, wrong), tmp_path)
    assert everything(tmp_path) == [".Small.partial/a.png"]


def test_a_wrong_file_of_the_user_is_kept(server: Server, tmp_path: Path) -> None:
    mine = write(tmp_path / "Small" / "a.png", b"mine")
    with pytest.raises(ChecksumError, match=f"{sha256(b'mine')}.*{sha256(BODY)}.*move it away"):
        install(dataset(server.add("a.png")), tmp_path)
    assert mine.read_bytes() == b"mine"
    assert server.requests == []


def test_an_unknown_checksum_is_recorded_and_compared(server: Server, tmp_path: Path) -> None:
    body = image(".png")
    small = dataset(server.add("a.png", body, known=False), server.add("b.png", b"other"))
    assert "1 had no known checksum" in install(small, tmp_path)
    assert (tmp_path / "Small.sha256").read_text() == f"{sha256(body)}  a.png\n"
    assert "recorded" not in install(small, tmp_path)

    shutil.rmtree(tmp_path / "Small")
    server.files["a.png"] = b"changed"
    with pytest.raises(ChecksumError, match=f"{sha256(b'changed')}.*{sha256(body)}"):
        install(small, tmp_path)
    assert visible(tmp_path) == ["Small.sha256"]


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.zip"])
@pytest.mark.parametrize("body", [b"<html>Please log in</html>", b"", image(".png")[:-20]])
def test_a_page_in_place_of_a_file_is_not_recorded(
    server: Server, tmp_path: Path, name: str, body: bytes
) -> None:
    """Where no checksum is known, from a server and from a folder."""
    small = dataset(server.add(name, body, known=False))
    write(tmp_path / "source" / name, body)
    for source in (None, tmp_path / "source"):
        with pytest.raises(ChecksumError, match=rf"a\..* no checksum is known for {name}"):
            install(small, tmp_path / "data", source)
    assert everything(tmp_path / "data") == []


def test_a_bmp_is_verified_by_pixels_and_stored_as_png(server: Server, tmp_path: Path) -> None:
    server.add("x.bmp", image(".bmp"))
    small = dataset(entry_by_pixels(server.url("x.bmp"), tmp_path))
    install(small, tmp_path / "data")
    assert everything(tmp_path / "data") == ["Small/x.png"]
    assert (tmp_path / "data" / "Small" / "x.png").read_bytes().startswith(b"\x89PNG")
    assert "complete" in install(small, tmp_path / "data")


@pytest.mark.parametrize("body", [image(".bmp", seed=1), b"no image"])
def test_other_pixels_are_refused(server: Server, tmp_path: Path, body: bytes) -> None:
    server.add("x.bmp", body)
    entry = entry_by_pixels(server.url("x.bmp"), tmp_path)
    with pytest.raises(ChecksumError, match=f"pixels.*expected {entry.pixels_sha256}"):
        install(dataset(entry), tmp_path / "data")
    assert everything(tmp_path / "data") == []


def test_an_interrupted_set_is_not_visible_and_is_continued(server: Server, tmp_path: Path) -> None:
    small = dataset(server.add("a.png"), server.add("b.png", b"other"))
    del server.files["b.png"]
    with pytest.raises(DownloadError, match="404"):
        install(small, tmp_path)
    assert visible(tmp_path) == []

    server.add("b.png", b"other")
    install(small, tmp_path)
    assert [name for name, _ in server.requests] == ["a.png", "b.png", "b.png"]
    assert visible(tmp_path / "Small") == ["a.png", "b.png"]


@pytest.mark.parametrize("found", ["before", "while writing"])
def test_a_full_disk_is_said(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if found == "before":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DownloadError, match=r"(disk full|No space).*make room and run the same"):
        install(dataset(server.add("a.png")), tmp_path)
    assert visible(tmp_path) == []


def test_archives_are_unpacked(server: Server, tmp_path: Path) -> None:
    train = server.add("train.zip", zipped(tmp_path, **{"train/a.jpg": b"a", "train/b.jpg": b"b"}))
    val = server.add("val.zip", zipped(tmp_path, **{"val/c.jpg": b"c"}))
    install(dataset(train, val), tmp_path)
    assert everything(tmp_path) == ["Small/train/a.jpg", "Small/train/b.jpg", "Small/val/c.jpg"]
    assert "not changed" in install(dataset(train, val), tmp_path)
    assert len(server.requests) == 2


def test_a_single_top_folder_is_left_out(server: Server, tmp_path: Path) -> None:
    body = zipped(tmp_path, **{"Top-1/a.jpg": b"a", "__MACOSX/Top-1/._a.jpg": b""})
    install(dataset(server.add("top.zip", body)), tmp_path)
    assert everything(tmp_path) == ["Small/a.jpg"]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:evil"])
def test_a_path_escape_is_refused(server: Server, tmp_path: Path, name: str, local: bool) -> None:
    body = zipped(tmp_path, **{"good.jpg": b"good", name: b"evil"})
    write(tmp_path / "source" / "set.zip", body)
    with pytest.raises(DownloadError, match="outside the folder; nothing was unpacked"):
        install(
            dataset(server.add("set.zip", body)),
            tmp_path / "data",
            tmp_path / "source" if local else None,
        )
    assert everything(tmp_path) == ["source/set.zip"]
    assert list((tmp_path / "data").iterdir()) == []


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(DownloadError, match="'link' is a link"):
        download.unpack(tmp_path / "set.zip", tmp_path / "out")
    assert visible(tmp_path) == ["set.zip"]


def test_a_damaged_archive_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    body = zipped(tmp_path, **{"a.jpg": b"a" * 100, "b.jpg": b"b" * 100})
    body = body.replace(b"b" * 100, b"c" * 100)  # found in the middle, by the CRC of b.jpg
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        install(dataset(server.add("set.zip", body)), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["Small/a.png", "a.png", "train/Small/a.png", "Other/a.png"])
def test_from_copies(tmp_path: Path, place: str) -> None:
    original = write(tmp_path / "source" / place, BODY)
    install(dataset(Entry("sub/a.png", "", sha256(BODY), "")), tmp_path, tmp_path / "source")
    copy = tmp_path / "Small" / "sub" / "a.png"
    assert copy.read_bytes() == original.read_bytes() == BODY
    assert not copy.is_symlink()
    assert copy.stat().st_nlink == 1


def test_from_passes_over_another_file_of_the_name(tmp_path: Path) -> None:
    write(tmp_path / "source" / "Small" / "a.png", b"another")
    write(tmp_path / "source" / "Other" / "a.png", BODY)
    install(dataset(Entry("a.png", "", sha256(BODY), "")), tmp_path, tmp_path / "source")
    assert (tmp_path / "Small" / "a.png").read_bytes() == BODY


@pytest.mark.parametrize("name", ["x.png", "x.bmp"])
def test_from_takes_a_file_by_its_pixels(tmp_path: Path, name: str) -> None:
    write(tmp_path / "source" / name, image(Path(name).suffix))
    entry = entry_by_pixels("https://example.org/x.bmp", tmp_path)
    install(dataset(entry), tmp_path, tmp_path / "source")
    assert download.pixels_sha256(tmp_path / "Small" / "x.png") == entry.pixels_sha256


def test_from_unpacks_an_archive_and_keeps_it(tmp_path: Path) -> None:
    write(tmp_path / "source" / "set.zip", zipped(tmp_path, **{"Top/a.jpg": b"a"}))
    assert "recorded" in install(
        dataset(Entry("set.zip", "", "", "")), tmp_path, tmp_path / "source"
    )
    assert everything(tmp_path) == ["Small.sha256", "Small/a.jpg", "source/set.zip"]


def test_what_cannot_be_had_is_said(tmp_path: Path) -> None:
    nowhere = dataset(Entry("set.zip", "", "", ""))
    with pytest.raises(DownloadError, match=r"set\.zip is neither in .*empty.* train/Small"):
        install(nowhere, tmp_path, tmp_path / "empty")
    with pytest.raises(DownloadError, match=r"by hand, then use --from DIR\. Ask the authors"):
        install(nowhere, tmp_path)


SIZES = {
    "Set11": 11,
    "BSD68": 68,
    "Set14": 14,
    "LIVE29": 29,
    "Urban100": 100,
    "BSDS500": 400,
    "BSD100": 100,
    "extra": 1076,
}


@pytest.mark.parametrize("name", catalogue.dataset_names(LISTS))
def test_every_list_is_sound(name: str) -> None:
    listed = catalogue.find_dataset(name, LISTS)
    files = [entry.file for entry in listed.entries]
    assert len(files) == len(set(files)) == SIZES.get(name, len(files))
    assert len({file.endswith(".zip") for file in files}) == 1
    for entry in listed.entries:
        assert not {"", "..", "/"} & set(Path(entry.file).parts)
        assert entry.url.startswith(("https://", "http://")) or name == "General100"
        assert {len(entry.sha256), len(entry.pixels_sha256)} <= {0, 64}
        assert set(entry.sha256 + entry.pixels_sha256) <= set("0123456789abcdef")
        assert bool(entry.pixels_sha256) == entry.url.endswith(".bmp")


def test_an_unknown_name_names_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("set_11", "bsd68", "--to", str(tmp_path)) == 1
    errors = capsys.readouterr().err.splitlines()
    assert "did you mean 'Set11'? (known: BSD100, BSD68, " in errors[0]
    assert "did you mean 'BSD68'?" in errors[1]
    assert errors[2:] == ["failed: set_11, bsd68"]


def test_a_failure_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = server.add("a.png")
    for name, checksum in (("Bad", "1" * 64), ("Good", entry.sha256)):
        rows = f"# {name}\nfile\turl\tsha256\tpixels_sha256\na.png\t{entry.url}\t{checksum}\n"
        (tmp_path / f"{name}.tsv").write_text(rows)
    monkeypatch.setattr(prepare_data, "LISTS", tmp_path)
    assert prepare("Bad", "Good", "--to", str(tmp_path / "data")) == 1
    assert visible(tmp_path / "data") == ["Good"]
    assert capsys.readouterr().err.endswith("failed: Bad\n")
    assert prepare("Good", "--to", str(tmp_path / "data")) == 0


def test_list_shows_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("--list") == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == catalogue.dataset_names(LISTS)


def test_pack_passes_both_paths_and_its_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pack(folder: Path, output: Path, color: str) -> None:
        assert color == "luma"
        raise ValueError(f"{folder.name} is empty, no {output.name}")

    monkeypatch.setitem(sys.modules, "lgmnet.data.packed", SimpleNamespace(pack=pack))
    assert prepare("--pack", "images", "out.luma") == 1
    assert capsys.readouterr().err == "error: images is empty, no out.luma\n"


@pytest.mark.shared
@pytest.mark.skipif("LGMNET_DATA" not in os.environ, reason="LGMNET_DATA names no folder")
def test_reference_data_has_the_listed_checksums(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["Set11", "Set14", "BSDS500"]
    assert prepare(*names, "--from", os.environ["LGMNET_DATA"], "--to", str(tmp_path)) == 0
    assert visible(tmp_path) == sorted(names)  # and no record: every checksum is listed
    assert prepare(*names, "--to", str(tmp_path)) == 0
    assert capsys.readouterr().out.count(": complete, ") == 3


def photograph(height: int, width: int) -> np.ndarray:
    """A smooth image in colour, of mean luma 100.0 when reduced to half its size or less."""
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    plane = 128 + 90 * np.sin(7 * rows) * np.cos(5 * columns)
    plane += 100 - plane.mean()
    return np.dstack([plane] * 3).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("local", [False, True])
def test_an_image_is_made_from_a_larger_one(server: Server, tmp_path: Path, local: bool) -> None:
    """Odd sides lose half a pixel. The result is left alone by a second call."""
    body = cv2.imencode(".png", photograph(375, 501))[1].tobytes()
    entry = Entry("a.jpg", server.add("source.JPEG", body).url, "0" * 64, "", "187x250 99.7")
    source = write(tmp_path / "from" / "source.JPEG", body).parent if local else None
    install(dataset(entry), tmp_path, source)
    assert everything(tmp_path / "Small") == ["a.jpg"]
    made = cv2.imread(str(tmp_path / "Small" / "a.jpg"), cv2.IMREAD_UNCHANGED)
    assert made.shape == (187, 250)
    expected = photograph(375, 501)[:374, :500, 0].reshape(187, 2, 250, 2).mean((1, 3))
    assert np.abs(made - expected).mean() < 1.5
    before = (tmp_path / "Small" / "a.jpg").read_bytes()
    assert install(dataset(entry), tmp_path).startswith("complete, 1 files")
    install(dataset(entry), tmp_path / "second", tmp_path)  # a made image is copied, not made again
    assert (tmp_path / "second" / "Small" / "a.jpg").read_bytes() == before


@pytest.mark.parametrize("listed", ["187x251 99.7", "187x250 90.0"])
def test_another_image_is_not_reduced(server: Server, tmp_path: Path, listed: str) -> None:
    body = cv2.imencode(".png", photograph(375, 501))[1].tobytes()
    entry = Entry("a.jpg", server.add("source.JPEG", body).url, "0" * 64, "", listed)
    with pytest.raises(ChecksumError, match=f"is not the listed image: .* expected {listed}"):
        install(dataset(entry), tmp_path)
    server.files["source.JPEG"] = b"<html>"
    with pytest.raises(ChecksumError, match="is not the listed image"):
        install(dataset(entry), tmp_path)
    assert not (tmp_path / "Small").exists()
