"""Every fuzz target for a moment: 10 seconds in all; `python tests/fuzz` takes as long as it is told."""

import zipfile

import pytest
from fuzz_targets import TARGETS, Target
from fuzzing import Escaped, fuzz, watched

from latentdebias.images.zips import zip_members


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_and_nothing_else_happens(name, tmp_path):
    assert fuzz(TARGETS[name], tmp_path, seconds=10 / len(TARGETS), seed=0) > 0


def test_a_zip_with_a_member_without_a_name_is_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("b.png", b"x")
        file.writestr("a.png", b"x")
        file.filelist[0].filename = ""
    assert [member.name for member in zip_members(tmp_path / "a.zip")] == ["", "a.png"]


@pytest.mark.parametrize(
    "read",
    [
        lambda path: path.read_bytes().decode(),
        lambda path: bytearray(len(path.read_bytes()) * 2**30),
        lambda path: path.parent.with_name("outside").write_bytes(b""),
    ],
    ids=["traceback", "allocation", "write outside"],
)
def test_the_fuzzer_catches_what_it_looks_for(read, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(AssertionError, match="failure-0-"):
        fuzz(Target("a", [b""], lambda path: path.read_bytes() and read(path), {}), tmp_path / "in", 5, seed=0)


def test_a_reader_may_not_start_a_process(tmp_path):
    with pytest.raises(Escaped), watched(tmp_path):
        __import__("os").system("true")
