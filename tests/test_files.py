import errno
import os
from pathlib import Path

import pytest

from latentdebias.errors import UserError
from latentdebias.files import check_output_file, check_output_folder, publish, published, published_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_published_bytes_replace_the_old_ones(tmp_path):
    for data in (b"old", b"new"):
        publish(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert names(tmp_path) == ["file"]


def test_a_failure_in_mid_file_leaves_the_old_bytes(tmp_path):
    publish(tmp_path / "file", b"old")

    def fail():
        with published(tmp_path / "file") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_a_users_error_and_leaves_the_old_bytes(tmp_path, monkeypatch):
    publish(tmp_path / "file", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"Cannot write .*file: No space left on device"):
        publish(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_path_below_a_file_is_a_users_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="Not a directory"):
        publish(tmp_path / "file" / "below", b"new")


def test_a_published_folder_replaces_the_old_one_whole(tmp_path):
    for name in ("old", "new"):
        with published_folder(tmp_path / "folder") as folder:
            (folder / name).write_text(name)
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["new"]


def test_a_failure_leaves_the_old_folder(tmp_path):
    with published_folder(tmp_path / "folder") as folder:
        (folder / "old").write_text("old")

    def fail():
        with published_folder(tmp_path / "folder") as folder:
            (folder / "new").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["old"]


def test_the_leavings_of_a_killed_run_are_not_published(tmp_path):
    (tmp_path / "folder.new").mkdir()
    (tmp_path / "folder.new" / "half").write_text("half")
    with published_folder(tmp_path / "folder") as folder:
        (folder / "whole").write_text("whole")
    assert names(tmp_path / "folder") == ["whole"]


def test_what_can_be_written_passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    check_output_file(tmp_path / "file")
    check_output_file(Path("file"))
    check_output_folder(tmp_path / "new")
    check_output_folder(tmp_path / "old")


@pytest.mark.parametrize("check", [check_output_file, check_output_folder])
def test_a_folder_that_is_closed_is_named(tmp_path, monkeypatch, check):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="not writable"):
        check(tmp_path / "new")


def test_a_file_needs_its_folder_and_a_folder_makes_those_above_it(tmp_path):
    with pytest.raises(UserError, match=f"mkdir -p {tmp_path / 'nowhere'}"):
        check_output_file(tmp_path / "nowhere" / "new")
    check_output_folder(tmp_path / "nowhere" / "new")


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path):
    with pytest.raises(UserError, match="it is a folder"):
        check_output_file(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="no folder"):
        check_output_folder(tmp_path / "file")
