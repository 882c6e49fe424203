"""A bounded local copy of a remote shard set, so that it can be read by sample number."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from latentdebias.errors import UserError, command
from latentdebias.files import sha256_of, try_lock, wait_for_lock, write_errors
from latentdebias.remote import check_url, download, member_url
from latentdebias.shards.format import (
    MANIFEST,
    ShardRecord,
    index_path,
    read_manifest,
    tar_path,
    write_json,
)
from latentdebias.shards.index_file import checked_index
from latentdebias.shards.reader import LatentShards
from latentdebias.shards.remote_manifest import read_remote_manifest

DOWNLOADS = 8


class ShardCache:
    """A local copy of the shard set at `url`, whose shards are fetched into `directory` when they are first read.

    A directory caches one set, and several processes of a machine may share it. When its tars exceed `max_bytes`,
    the least recently opened ones are removed; tars that are being fetched, or that a reader holds open, may exceed
    that limit. Raises `UserError` where the directory caches another set, or one shard is larger than `max_bytes`.
    """

    def __init__(self, url: str, directory: Path | str, max_bytes: int) -> None:
        check_url(url)
        self.url, self.directory, self.max_bytes = url, Path(directory), max_bytes
        self.manifest = read_remote_manifest(url)
        self._records = {shard.name: shard for shard in self.manifest.shards}
        largest = max((shard.size for shard in self.manifest.shards), default=0)
        if max_bytes < largest:
            raise UserError(f"A cache of {max_bytes} bytes cannot hold a shard of {largest}; allow it that or more.")
        with write_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(self._lock_path("cache")):
            self._fetch_manifest()
            self._fetch_indexes()

    def open(self) -> LatentShards:
        """The whole set as `LatentShards`, which fetches each tar when a sample of it is first read."""
        return LatentShards(self.directory, open_tar=self.open_tar)

    def open_tar(self, name: str) -> int:
        """An open file descriptor of the tar of shard `name`, which is fetched first if the cache does not hold it.

        Raises `UserError` where the fetched tar's size or sha256 is not the one in the manifest.
        """
        shard, path = self._records[name], tar_path(self.directory, name)
        # While the lock is held no process evicts the tar; once open it stays readable even if it is removed.
        with wait_for_lock(self._lock_path(name)):
            fetched = not path.exists()
            if fetched:
                self._fetch(shard, path)
            now = time.time_ns()  # finer than the clock that os.utime reads itself
            os.utime(path, ns=(now, now))
            descriptor = os.open(path, os.O_RDONLY)
        if fetched:
            self._evict()
        return descriptor

    def _fetch(self, shard: ShardRecord, path: Path) -> None:
        for left_by_a_killed_process in self.directory.glob(f"{path.name}.*"):
            left_by_a_killed_process.unlink()
        url, unchecked = member_url(self.url, path.name), path.with_name(f"{path.name}.unchecked")
        download(url, unchecked)
        size = unchecked.stat().st_size
        if (size, sha256_of(unchecked)) != (shard.size, shard.sha256):
            unchecked.unlink()
            raise UserError(
                f"{url} is not the shard of the manifest ({size} bytes instead of {shard.size}, or another sha256). "
                f"Check the set where it was made with: {command('encode')} verify DIRECTORY"
            )
        unchecked.rename(path)

    def _evict(self) -> None:
        """Remove the least recently opened tars, but none that is being opened, until the rest fit in `max_bytes`."""
        with wait_for_lock(self._lock_path("cache")):
            tars = [tar_path(self.directory, name) for name in self._records]
            found = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in tars if path.exists())
            excess = sum(size for _, size, _ in found) - self.max_bytes
            for _, size, path in found:
                if excess <= 0:
                    return
                if lock := try_lock(self._lock_path(path.stem)):
                    with lock:
                        path.unlink()
                        excess -= size

    def _fetch_manifest(self) -> None:
        path = self.directory / MANIFEST
        if path.exists() and read_manifest(self.directory) != self.manifest:
            raise UserError(
                f"{self.directory} caches another set than the one at {self.url}. Name another directory, or empty "
                f"this one with: rm -r {self.directory}"
            )
        if not path.exists():
            write_json(path, self.manifest)

    def _fetch_indexes(self) -> None:
        missing = [shard for shard in self.manifest.shards if not index_path(self.directory, shard.name).exists()]
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            fetched = pool.map(self._fetch_index, missing)
            for _ in tqdm(fetched, total=len(missing), desc="indexes", unit="file", leave=False, disable=not missing):
                pass

    def _fetch_index(self, shard: ShardRecord) -> None:
        path = index_path(self.directory, shard.name)
        url, unchecked = member_url(self.url, path.name), path.with_name(f"{path.name}.unchecked")
        download(url, unchecked)
        try:
            checked_index(unchecked.read_bytes(), shard, self.manifest)
        except ValueError as error:
            raise UserError(f"{url} is damaged ({error}); copy the set to that address again.") from None
        unchecked.rename(path)

    def _lock_path(self, name: str) -> Path:
        return self.directory / f"{name}.lock"
