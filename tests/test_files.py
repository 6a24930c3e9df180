"""Files are written whole, or stay as they were."""

import os

import pytest

from lgmnet.files import sha256, write_text, write_whole


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_others_may_read_a_file_as_the_umask_says(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "new" / "a.txt", "α")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "a.txt").stat().st_mode & 0o777 == mode
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
