"""What every reader does at a server that fails: nothing is lost, and nothing is accepted that is not whole."""

import itertools
import re

import pytest
from faulty import FAULTS, served_with_faults
from serving import served
from streams import SMALL, everything, everything_of, read_all

from latentdebias import remote
from latentdebias.batches.plan import plan_batches
from latentdebias.batches.streaming import StreamedSet
from latentdebias.errors import UserError
from latentdebias.images.find import find_images
from latentdebias.remote import download, open_seekable, read_range
from latentdebias.shards.cache import ShardCache


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(remote, "WAITS", (0.01,) * 30)
    # As if every host had answered before: the first request may fail as well.
    monkeypatch.setattr(remote, "_answered", type("Everywhere", (set,), {"__contains__": lambda self, host: True})())


READERS = {
    "streamed": lambda stream, cache: list(stream.samples(plan_batches(0, 21, None, 0, 1), range(1))),
    "cached": lambda stream, cache: everything_of(cache.open()),
}


def everything_cached(url, directory):
    return everything_of(ShardCache(url, directory, 10**9).open())


@pytest.mark.parametrize("workers", [0, 2])
def test_images_at_a_failing_server_are_encoded_as_local_ones(tars, encode_source, contents, workers):
    expected = contents(encode_source(find_images(f"{tars}/{{0..2}}.tar"), "local"))
    with served_with_faults(tars) as server:
        directory = encode_source(find_images(f"{server.url}/{{0..2}}.tar"), "remote", workers)
        assert all(server.drawn[fault] for fault in FAULTS), server.drawn
    assert contents(directory) == expected


def test_a_set_at_a_failing_server_is_streamed_and_cached_whole(encode, tmp_path):
    directory = encode()
    with served_with_faults(directory, rate=0.6) as server:
        streamed = read_all(server.url)
        cached = everything_cached(server.url, tmp_path / "cache")
        assert all(server.drawn[fault] for fault in FAULTS), server.drawn
    assert sorted(streamed) == sorted(everything(directory))
    assert cached == everything(directory)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "slow"])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_server_that_never_recovers_is_named_and_nothing_of_it_is_kept(encode, tmp_path, monkeypatch, fault, reader):
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.01))
    with served_with_faults(encode(), [fault], rate=0) as server:
        stream, cache = StreamedSet(server.url, SMALL), ShardCache(server.url, tmp_path / "cache", 10**9)
        server.rate = 1
        with pytest.raises(UserError, match=re.escape(f"{server.url}/shard-00000")):
            reader(stream, cache)
        assert server.drawn[fault] >= 3
    assert not list(cache.directory.glob("*.tar*"))


def test_a_request_that_stalls_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "STALL_SECONDS", 2)
    (tmp_path / "file").write_bytes(b"0123456789")
    with served_with_faults(tmp_path, ["stalled"], rate=0) as server:
        server.draw = itertools.chain(["stalled"], itertools.repeat("none")).__next__
        assert read_range(f"{server.url}/file", 3, 4) == b"3456"


def test_a_request_that_failed_is_made_again_and_said(tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"0123456789")
    with served_with_faults(tmp_path, ["cut"], rate=0) as server:
        url = f"{server.url}/file"
        server.draw = iter(["cut", "cut", "none"]).__next__
        assert read_range(url, 3, 4) == b"3456"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all(line.startswith(url) and "trying again in 0.01 s" in line for line in said)


@pytest.mark.parametrize("answered", [False, True])
def test_only_a_host_that_has_answered_is_waited_for(tmp_path, monkeypatch, answered):
    (tmp_path / "file").write_bytes(b"0123456789")
    monkeypatch.setattr(remote, "_answered", set())
    with served_with_faults(tmp_path, ["error"], rate=0) as server:
        if answered:
            read_range(f"{server.url}/file", 0, 1)
        server.drawn.clear()
        server.rate = 1
        with pytest.raises(UserError, match="503"):
            read_range(f"{server.url}/file", 0, 1)
        assert server.drawn["error"] == (31 if answered else 1)


def test_a_missing_file_is_not_asked_for_again(tmp_path):
    with served_with_faults(tmp_path, rate=0) as server, pytest.raises(UserError, match="FileNotFound"):
        read_range(f"{server.url}/file", 0, 1)
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [0, 1, 5 << 20])
def test_a_server_without_byte_ranges_gives_whole_files(tmp_path, monkeypatch, size):
    monkeypatch.setattr(remote, "DOWNLOADED_AT_ONCE", 1 << 20)
    (tmp_path / "file").write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    with served(tmp_path) as (url, _):
        download(f"{url}/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_file_is_read_from_any_place(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "READ_AHEAD", 100)
    (tmp_path / "file").write_bytes(bytes(range(250)))
    with served_with_faults(tmp_path, rate=0) as server, open_seekable(f"{server.url}/file") as file:
        assert file.read(3) == b"\0\1\2"
        assert file.seek(-4, 2) == 246
        assert file.read(10) == bytes(range(246, 250))
        assert file.read(10) == b""
        assert file.seek(200) == 200
        assert file.read() == bytes(range(200, 250))
