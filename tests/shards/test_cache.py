import multiprocessing
import os
import threading

import numpy as np
import pytest
from serving import served

from latentdebias.errors import UserError
from latentdebias.files import wait_for_lock
from latentdebias.shards.cache import ShardCache
from latentdebias.shards.reader import LatentShards
from latentdebias.shards.remote_manifest import read_remote_manifest

ALL = np.arange(21)
PLAIN = np.zeros(21, bool)


def tars(directory):
    return sorted(path.name for path in directory.glob("*.tar"))


def largest(directory):
    return max(path.stat().st_size for path in directory.glob("*.tar"))


def read_in(cache, shard):
    os.close(cache.open_tar(f"shard-{shard:06d}"))


def test_a_cached_set_reads_as_the_set_itself_and_fetches_each_tar_once(encode, tmp_path):
    directory = encode()
    with served(directory) as (url, requests):
        shards = ShardCache(url, tmp_path / "cache", 10**9).open()
        assert tars(tmp_path / "cache") == []
        for _ in range(2):
            again = ShardCache(url, tmp_path / "cache", 10**9).open()
            for reader in (shards, again):
                for found, expected in zip(
                    reader.read(ALL, PLAIN), LatentShards(directory).read(ALL, PLAIN), strict=True
                ):
                    assert np.array_equal(found, expected)
        fetched = [path for path in requests if path.endswith(".tar")]
        assert sorted(fetched) == [f"/{name}" for name in tars(directory)]


def test_only_the_tars_that_are_read_are_fetched(encode, tmp_path):
    directory = encode()
    ShardCache(f"file://{directory}", tmp_path / "cache", 10**9).open().read(np.array([0, 7]), PLAIN[:2])
    assert tars(tmp_path / "cache") == ["shard-000000.tar", "shard-000001.tar"]


def test_the_tar_opened_longest_ago_goes_first(encode, tmp_path):
    directory = encode()
    cache = ShardCache(str(directory), tmp_path / "cache", 2 * largest(directory))
    for shard in (0, 1, 0, 2):
        read_in(cache, shard)
    assert tars(cache.directory) == ["shard-000000.tar", "shard-000002.tar"]


def test_a_reader_outlives_the_eviction_of_what_it_has_open(encode, tmp_path):
    directory = encode()
    cache = ShardCache(str(directory), tmp_path / "cache", largest(directory))
    values, _ = cache.open().read(ALL, PLAIN)
    assert np.array_equal(values, LatentShards(directory).read(ALL, PLAIN)[0])
    assert len(tars(cache.directory)) == 1


def test_a_tar_that_is_being_opened_is_not_evicted(encode, tmp_path):
    directory = encode()
    cache = ShardCache(str(directory), tmp_path / "cache", largest(directory))
    read_in(cache, 0)
    with wait_for_lock(cache.directory / "shard-000000.lock"):
        read_in(cache, 1)
        assert "shard-000000.tar" in tars(cache.directory)
    read_in(cache, 2)
    assert tars(cache.directory) == ["shard-000002.tar"]


@pytest.mark.parametrize("damage", ["bit flip", "cut", "missing"])
def test_a_tar_that_is_not_the_manifests_never_appears_in_the_cache(encode, tmp_path, damage):
    directory = encode()
    cache = ShardCache(str(directory), tmp_path / "cache", 10**9)
    tar = directory / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    {"bit flip": lambda: tar.write_bytes(data), "cut": lambda: os.truncate(tar, 1000), "missing": tar.unlink}[damage]()
    with pytest.raises(UserError, match=r"shard-000000\.tar"):
        read_in(cache, 0)
    assert not list(cache.directory.glob("*.tar*"))


@pytest.mark.parametrize("content", [b"", b"x" * 400, np.array([1, 2]).tobytes()])
def test_a_damaged_index_is_refused(encode, tmp_path, content):
    directory = encode()
    (directory / "shard-000001.index.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"shard-000001\.index\.npy is damaged"):
        ShardCache(str(directory), tmp_path / "cache", 10**9)
    np.save(directory / "shard-000001.index.npy", np.zeros(4))
    with pytest.raises(UserError, match="does not hold 5 rows"):
        ShardCache(str(directory), tmp_path / "cache", 10**9)


def test_what_a_killed_download_left_is_removed(encode, tmp_path):
    cache = ShardCache(str(encode()), tmp_path / "cache", 10**9)
    left = [cache.directory / f"shard-000000.tar.{end}" for end in ("unchecked", "host-1.tmp")]
    for path in left:
        path.write_bytes(b"half")
    read_in(cache, 0)
    assert not any(path.exists() for path in left)


def test_another_set_in_the_directory_is_refused(encode, make_encoder, tmp_path):
    ShardCache(str(encode()), tmp_path / "cache", 10**9)
    with pytest.raises(UserError, match="caches another set"):
        ShardCache(str(encode("other", encoder=make_encoder("other"))), tmp_path / "cache", 10**9)


def test_a_limit_below_one_shard_is_refused(encode, tmp_path):
    with pytest.raises(UserError, match="cannot hold a shard"):
        ShardCache(str(encode()), tmp_path / "cache", 1000)


@pytest.mark.parametrize("url", ["pipe:touch x", "pipe://x"])
def test_an_address_that_runs_a_command_is_refused(tmp_path, url):
    with pytest.raises(UserError, match="is refused"):
        ShardCache(url, tmp_path / "cache", 10**9)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["../shard-000000", "/tmp/shard", "shard/0", "cache.lock", ""])
def test_a_manifest_that_names_files_elsewhere_is_refused(encode, tmp_path, name):
    directory = encode()
    manifest = directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"shard-000003"', f'"{name}"'))
    with pytest.raises(UserError, match="is refused"):
        ShardCache(str(directory), tmp_path / "cache", 10**9)
    with pytest.raises(UserError, match="is refused"):
        read_remote_manifest(str(directory))
    assert not (tmp_path / "cache").exists()


def _read_repeatedly(url, directory, limit, seed, expected):
    shards = ShardCache(url, directory, limit).open()
    for sample in np.random.default_rng(seed).integers(0, 21, 60).tolist():
        shards._descriptors.clear()
        assert np.array_equal(shards.read(np.array([sample]), PLAIN[:1])[0][0], expected[sample])


def test_processes_share_a_cache_that_holds_one_shard(encode, tmp_path):
    directory = encode()
    expected, _ = LatentShards(directory).read(ALL, PLAIN)
    context = multiprocessing.get_context("fork")
    arguments = (str(directory), tmp_path / "cache", largest(directory))
    workers = [context.Process(target=_read_repeatedly, args=(*arguments, seed, expected)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(tars(tmp_path / "cache")) <= 3


def test_threads_that_want_the_same_tar_fetch_it_once(encode, tmp_path):
    with served(encode()) as (url, requests):
        cache = ShardCache(url, tmp_path / "cache", 10**9)
        threads = [threading.Thread(target=read_in, args=(cache, 0)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert requests.count("/shard-000000.tar") == 1
