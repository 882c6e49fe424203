"""Every fuzz target for a moment: 10 seconds in all; `python -m tests.fuzz` takes as long as it is told."""

import pytest

from tests.fuzz.fuzzing import Escaped, fuzz, watched
from tests.fuzz.targets import TARGETS, Target


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_and_nothing_else_happens(name, tmp_path):
    assert fuzz(TARGETS[name], tmp_path, seconds=10 / len(TARGETS), seed=0) > 0


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
