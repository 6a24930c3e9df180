"""Get the data sets listed in ``data/checksums``: download or copy, verify, install.

``<name>.tsv`` lists one data set: images, or zip archives of images.

    file           path inside the folder of the data set, or name of a zip archive
    url            address for the download; empty if no address is known
    sha256         hash of the file; empty if it is unknown
    pixels_sha256  hash of the decoded pixels, for a ``.bmp`` that is stored as ``.png``
    reduced        size and mean of a file that is made from a larger image, see `reduced`

Files are collected in ``.<name>.partial``, and archives are unpacked in ``.<name>.unpacking``. Both
are beside the final folder and are renamed when everything is complete and verified. So a data set
is never partly installed. An interrupted download continues where it stopped. A checksum that is
not in the list is recorded in ``<name>.sha256`` (in the format of sha256sum) and compared later.
"""

import errno
import hashlib
import os
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request

import cv2
import numpy as np
from tqdm import tqdm

from lgmnet.data.catalogue import Dataset, DownloadError, Entry
from lgmnet.data.images import ImageError, read_pixels
from lgmnet.data.limits import Pace, content_length, open_url, require_size
from lgmnet.data.reduced import reduced_jpeg, reduced_problem
from lgmnet.files import DISK_FULL, sha256, write_text

TIMEOUT_S = 30.0
ATTEMPTS = 4
PAUSE_S = 2.0  # before the second attempt; the pauses become longer
PASSING_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError)
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}  # HTTP states worth another attempt
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
BLOCK_BYTES = 1 << 20
# Images are compressed, so an archive of them unpacks to at most this many times its size.
LARGEST_RATIO, ALWAYS_ALLOWED = 20, 10_000_000
BAR_BYTES = 20_000_000  # from this size a file has its own progress bar

Recorded = dict[str, str]
"""Checksums that are not in the list, file -> SHA-256. Verifying files adds entries."""


class ChecksumError(DownloadError):
    """A file exists, but it is not the expected file."""


class ArchiveError(DownloadError):
    """An archive is damaged, or would write outside its folder."""


def pixels_sha256(path: Path) -> str:
    """SHA-256 of ``{H}x{W}x3`` and the decoded bytes (BGR, 8 bit); grey has equal channels."""
    try:
        image = read_pixels(path)
    except ImageError:
        return "unknown (not an image)"
    if image.ndim == 2:
        image = np.dstack([image] * 3)
    shape = "x".join(str(size) for size in image.shape)
    return hashlib.sha256(shape.encode() + image.tobytes()).hexdigest()


def verify(path: Path, entry: Entry, recorded: Recorded) -> None:
    """Raise ChecksumError unless ``path`` is the file of ``entry``.

    An unknown checksum is recorded, but only of an image or archive, because a server may send a
    login page.
    """
    expected = entry.sha256 or recorded.get(entry.file)
    actual = sha256(path)
    if actual == expected:
        return
    if entry.reduced:
        if problem := reduced_problem(path, entry.reduced):
            raise ChecksumError(f"{path} is not the listed image: {problem}")
    elif entry.pixels_sha256:
        pixels = pixels_sha256(path)
        if pixels != entry.pixels_sha256:
            raise ChecksumError(
                f"{path}: the SHA-256 of its pixels is {pixels}, expected {entry.pixels_sha256}"
            )
    elif expected:
        raise ChecksumError(f"{path}: its SHA-256 is {actual}, expected {expected}")
    elif problem := _why_unusable(path, entry):
        raise ChecksumError(f"{problem}; no checksum is known for {entry.file}")
    else:
        recorded[entry.file] = actual


def _why_unusable(path: Path, entry: Entry) -> str:
    if entry.file.endswith(".zip"):
        return "" if zipfile.is_zipfile(path) else f"{path} is not a zip archive"
    try:
        read_pixels(path)
    except ImageError as error:
        return str(error)
    return ""


def _read_record(path: Path) -> Recorded:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line[66:]: line[:64] for line in lines}


def _write_record(path: Path, recorded: Recorded) -> None:
    lines = [f"{checksum}  {file}\n" for file, checksum in sorted(recorded.items())]
    write_text(path, "".join(lines))


def download(url: str, part: Path) -> None:
    """Download ``url`` to ``part``, after the bytes that ``part`` already has."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _continue_download(url, part)
        except PASSING_ERRORS as error:
            if isinstance(error, HTTPError) and error.code not in PASSING_STATUS:
                raise DownloadError(f"{url}: {error}; use a local copy, --from DIR") from error
            problem = error
        if attempt < ATTEMPTS:
            time.sleep(PAUSE_S * attempt)
    raise DownloadError(
        f"{url}: {problem} ({ATTEMPTS} attempts); run the same command again to continue, "
        "or use a local copy, --from DIR"
    )


def _continue_download(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "lgmnet"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = open_url(Request(url, headers=headers), TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return  # the file is complete; the checksum tells whether it is correct
        raise
    with response:
        _write_body(response, part, have)


def _write_body(response: HTTPResponse, part: Path, have: int) -> None:
    start = have if response.status == 206 else 0  # a server without ranges sends all of it
    if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise ConnectionError(f"the server did not send the range from byte {start}")
    length = content_length(response)
    _require_space(part.parent, length)
    pace = Pace()
    hide = True if length < BAR_BYTES else None  # None: hidden where there is no terminal
    with (
        tqdm(total=start + length, initial=start, unit="B", unit_scale=True, disable=hide) as bar,
        part.open("ab" if start else "wb") as stream,
    ):
        while block := response.read1(BLOCK_BYTES):
            stream.write(block)
            bar.update(len(block))
            pace.add(len(block))
            require_size(start + pace.total)
    size = part.stat().st_size
    if length and size != start + length:
        raise ConnectionError(f"the connection broke off after {size} of {start + length} bytes")


def _download_verified(entry: Entry, final: Path, recorded: Recorded) -> None:
    """Download ``entry``. The file gets the name ``final`` only if its checksum is correct."""
    part = final.with_name(f"{final.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if not (entry.sha256 or entry.pixels_sha256 or recorded.get(entry.file)):
        part.unlink(missing_ok=True)  # without a checksum, old and new bytes cannot be verified
    resumed = part.exists()
    while True:
        download(entry.url, part)
        try:
            verify(part, entry, recorded)
            break
        except ChecksumError as error:
            part.unlink()
            if not resumed:
                raise ChecksumError(f"{error}; the file from {entry.url} was deleted") from error
            resumed = False  # the part may be of an older version, so try once from the start
    _store(part, final, entry)
    part.unlink(missing_ok=True)


def _store(verified: Path, final: Path, entry: Entry) -> None:
    """Copy a verified file, or rename a download. Convert a bmp if ``final`` is a png.

    A file that `reduced` describes is made, unless ``verified`` is already the result.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    new = final.with_name(f"{final.name}.new")
    if final.suffix == ".png" and verified.read_bytes().startswith(b"BM"):
        new.write_bytes(cv2.imencode(".png", read_pixels(verified))[1].tobytes())
    elif entry.reduced and (made := reduced_jpeg(verified, entry.reduced)):
        new.write_bytes(made)
    elif verified.suffix == ".part":
        new = verified
    else:
        shutil.copyfile(verified, new)
    os.replace(new, final)


def _find_local(dataset: Dataset, entry: Entry, source: Path, recorded: Recorded) -> Path:
    """The first file under ``source`` with a name and the checksum of ``entry``."""
    problem: DownloadError | None = None
    for candidate in _candidates(dataset, entry, source):
        try:
            verify(candidate, entry, recorded)
            return candidate
        except ChecksumError as error:
            problem = problem or error
    raise problem or DownloadError(
        f"{entry.file} is neither in {source} nor in its folders {dataset.name} and "
        f"train/{dataset.name}" + ("; without --from it is downloaded" if entry.url else "")
    )


def _candidates(dataset: Dataset, entry: Entry, source: Path) -> Iterator[Path]:
    folders = [source / dataset.name, source, source / "train" / dataset.name]
    if entry.sha256 or entry.pixels_sha256:  # with a checksum, any folder can be searched
        folders += sorted([*source.glob("*/"), *source.glob("train/*/")])
    url_name = PurePosixPath(unquote(urlsplit(entry.url).path)).name
    names = [entry.file, PurePosixPath(entry.file).name, url_name]
    for folder in folders:
        yield from (folder / name for name in names if (folder / name).is_file())


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip file into ``folder``. An archive that would write outside it is refused."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in opened.infolist() if not m.filename.startswith("__MACOSX/")]
            for member in members:
                _refuse_unsafe(member, archive)
            unpacked = sum(member.file_size for member in members)
            _refuse_bomb(unpacked, archive)
            _require_space(folder.parent, unpacked)
            for member in tqdm(members, desc=f"unpack {archive.name}", disable=None):
                opened.extract(member, folder)
    except DAMAGED_ZIP as error:
        raise ArchiveError(f"{archive} cannot be unpacked: {error}; get it again") from error


def _refuse_unsafe(member: zipfile.ZipInfo, archive: Path) -> None:
    path = PureWindowsPath(member.filename)  # knows / and \, drives and roots
    outside = path.drive or path.root or ".." in path.parts or not path.parts
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise ArchiveError(
            f"{archive}: its member '{member.filename}' is a link or lies outside the folder; "
            "nothing was unpacked, get the archive from another place"
        )


def _refuse_bomb(unpacked: int, archive: Path) -> None:
    size = archive.stat().st_size
    if unpacked > max(LARGEST_RATIO * size, ALWAYS_ALLOWED):
        raise ArchiveError(
            f"{archive} has {size / 1e6:.1f} MB and would unpack to {unpacked / 1e6:.1f} MB, more "
            f"than {LARGEST_RATIO} times as much, which images never do; nothing was unpacked"
        )


def install(dataset: Dataset, root: Path, source: Path | None = None) -> str:
    """Install a data set in ``root/<name>``, from the internet or from the folder ``source``.

    A complete data set is not changed. Existing files are never changed or removed.

    Returns:
        One line about what was done.

    Raises:
        DownloadError: the data set cannot be installed; the message is one line.
    """
    target = (root / dataset.name).resolve()  # a link to a folder elsewhere is followed
    record = root / f"{dataset.name}.sha256"
    try:
        root.mkdir(parents=True, exist_ok=True)
        recorded = _read_record(record)
        known = len(recorded)
        done = _install(dataset, target, source, recorded)
        if new := len(recorded) - known:
            _write_record(record, recorded)
            done += f"; {new} had no known checksum, it is now recorded in {record}"
    except OSError as error:
        hint = "; make room and run the same command again" if error.errno in DISK_FULL else ""
        cause = f"{error.filename or target}: {error.strerror or error}"
        raise DownloadError(f"{cause}{hint}") from error
    return done


def _install(dataset: Dataset, target: Path, source: Path | None, recorded: Recorded) -> str:
    if dataset.is_packed and target.is_dir() and any(target.iterdir()):
        return f"not changed, it is in {target}"  # a folder with this name is complete
    absent = [e for e in dataset.entries if not _is_present(target / e.file, e, recorded)]
    if not absent:
        return f"complete, {len(dataset.entries)} files in {target}"
    staging = target.with_name(f".{dataset.name}.partial")
    with tqdm(absent, desc=dataset.name, unit="file", disable=None) as bar:
        files = [_fetch(dataset, entry, staging, source, recorded) for entry in bar]
    if dataset.is_packed:
        _publish_unpacked(files, staging, target)
    else:
        _publish(staging, target)
    return f"installed {len(absent)} files in {target}"


def _is_present(path: Path, entry: Entry, recorded: Recorded) -> bool:
    if not path.exists():
        return False
    try:
        verify(path, entry, recorded)
    except ChecksumError as error:
        raise ChecksumError(f"{error}; move it away and run the command again") from error
    return True


def _fetch(
    dataset: Dataset, entry: Entry, staging: Path, source: Path | None, recorded: Recorded
) -> Path:
    """Put a verified file into ``staging``. An archive in ``source`` is used without a copy."""
    final = staging / entry.file
    if _is_present(final, entry, recorded):  # from an interrupted run
        return final
    if source is not None:
        found = _find_local(dataset, entry, source, recorded)
        if not dataset.is_packed:
            _store(found, final, entry)
        return found
    if not entry.url:
        note = " ".join(dataset.comments[1:])
        raise DownloadError(f"get {entry.file} by hand, then use --from DIR. {note}")
    _download_verified(entry, final, recorded)
    return final


def _publish(staging: Path, target: Path) -> None:
    for leftover in [*staging.rglob("*.part"), *staging.rglob("*.new")]:
        leftover.unlink()
    if not target.exists():
        os.replace(staging, target)
        return
    for path in sorted(path for path in staging.rglob("*") if path.is_file()):
        final = target / path.relative_to(staging)
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, final)
    shutil.rmtree(staging)


def _publish_unpacked(archives: list[Path], staging: Path, target: Path) -> None:
    """Unpack into a folder beside ``target`` and rename it. A single top folder is removed."""
    unpacking = staging.with_suffix(".unpacking")
    shutil.rmtree(unpacking, ignore_errors=True)  # from a killed run
    try:
        for archive in archives:
            try:
                unpack(archive, unpacking)
            except ArchiveError:
                _discard(archive, staging)
                raise
        inside = list(unpacking.iterdir()) if unpacking.is_dir() else []
        if not inside:
            _discard(archives[0], staging)
            raise ArchiveError(f"{archives[0]} holds no files; get it from another place")
        single = len(inside) == 1 and inside[0].is_dir()
        os.replace(inside[0] if single else unpacking, target)
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)
    shutil.rmtree(staging, ignore_errors=True)


def _discard(archive: Path, staging: Path) -> None:
    """Remove a download that cannot be installed; keep an archive of the user."""
    if archive.parent == staging:
        archive.unlink()
        if not any(staging.iterdir()):
            staging.rmdir()


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        problem = f"disk full, {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free"
        raise OSError(errno.ENOSPC, problem, str(folder))
