"""Files are written whole, or stay as they were."""

import errno
import os

import pytest
import torch
from safetensors.torch import save_file

from lgmnet import files
from lgmnet.files import remove_leftovers, sha256, write_text, write_whole


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_others_may_read_a_file_as_the_umask_says(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "new" / "a.txt", "α")
        write_whole(tmp_path / "w", lambda path: save_file({"x": torch.zeros(1)}, path))
    finally:
        os.umask(before)
    for path in (tmp_path / "new" / "a.txt", tmp_path / "w"):
        assert path.stat().st_mode & 0o777 == mode
    # printf α | sha256sum
    assert sha256(tmp_path / "new" / "a.txt").startswith("3e32da9648c78fee")


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "a.txt", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_link_stays_a_link(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    (tmp_path / "link").symlink_to(tmp_path / "a.txt")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "No space left on device"), (errno.EDQUOT, "Disk quota exceeded")],
)
def test_an_error_names_the_file_and_the_free_space(tmp_path, number, reason):
    def full(temporary):
        temporary.write_text("half")
        raise OSError(number, os.strerror(number), str(temporary))

    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(OSError, match=rf"{reason}, [\d.]+ MB free: '.*/a\.txt'"):
        write_whole(tmp_path / "a.txt", full)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_an_error_of_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"source\.txt"):
        write_whole(tmp_path / "a.txt", lambda _: (tmp_path / "source.txt").read_text())


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "字" * 85])
def test_the_longest_names_can_be_written(tmp_path, name):
    """255 bytes, of one, two and three to a letter: the temporary file has room too."""
    write_text(tmp_path / name, "new")
    assert (tmp_path / name).read_text() == "new"


def test_a_name_that_is_too_long_is_said_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match=r"File name too long: '.*/xxx"):
        write_text(tmp_path / ("x" * 256), "new")
    assert not list(tmp_path.iterdir())


def test_file_and_name_reach_the_disk_in_this_order(tmp_path, monkeypatch):
    """The bytes before the name, the name before the end: a loss of power keeps old or new."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(number):
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{number}").rpartition("/")[2]))
        fsync(number)

    def noted_replace(source, target):
        calls.append(("replace", target.name))
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", noted_fsync)
    monkeypatch.setattr(files.os, "replace", noted_replace)
    write_text(tmp_path / "a.txt", "new")
    (first, file), second, third = calls
    assert first == "fsync"
    assert file.startswith(".a.txt.")
    assert [second, third] == [("replace", "a.txt"), ("fsync", tmp_path.name)]


def test_a_file_system_that_cannot_flush_folders_is_written_all_the_same(tmp_path, monkeypatch):
    fsync = os.fsync

    def refusing(number):
        if os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(number)

    monkeypatch.setattr(files.os, "fsync", refusing)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    kept = ["last.pt", ".lock", ".last.pt", ".last.pt.bak", "x.0123abcd", ".x.0123ABCD"]
    for name in [*kept, ".last.pt.0123abcd", ".config.yaml.00000000"]:
        (tmp_path / name).touch()
    (tmp_path / ".folder.0123abcd").mkdir()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, ".folder.0123abcd"}
