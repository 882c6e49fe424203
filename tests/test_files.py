import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentdebias.errors import UserError
from latentdebias.files import (
    check_output_file,
    check_output_folder,
    publish,
    published,
    published_folder,
    read_json,
    sha256_of,
    try_lock,
    wait_for_lock,
)


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


def test_a_files_sha256_is_that_of_its_bytes(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_json_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"é": [1, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json", "") == {"é": [1, None]}


@pytest.mark.parametrize("data", [b"", b"{", b"3", b"null", b'"text"', b'{"a": "\xff"}', b"[" * 100_000])
def test_a_damaged_json_file_is_named_with_its_mend(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.json is damaged \(.*\)\. Make it anew\."):
        read_json(tmp_path / "a.json", "Make it anew.")


def test_a_missing_json_file_is_named_with_its_mend(tmp_path):
    with pytest.raises(UserError, match=r"a\.json does not exist\. Make it anew\."):
        read_json(tmp_path / "a.json", "Make it anew.")


def test_a_lock_is_held_until_its_file_is_closed(tmp_path):
    with wait_for_lock(tmp_path / "lock"):
        assert try_lock(tmp_path / "lock") is None
    held = try_lock(tmp_path / "lock")
    assert held is not None
    held.close()


def test_a_killed_process_leaves_no_lock(tmp_path):
    hold = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
    say = "print('held', flush=True); input()"
    command = [sys.executable, "-c", hold + say, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert try_lock(tmp_path / "lock") is None
        other.kill()
    with wait_for_lock(tmp_path / "lock"):
        pass
