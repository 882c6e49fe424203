"""Writes one latent shard: a deterministic USTAR archive, its index and its summary."""

import io
import json
import tarfile
from pathlib import Path
from types import TracebackType

import numpy as np

from latentdebias.files import (
    open_locked,
    publish,
    remove_abandoned,
    rename_synced,
    sha256_of,
    temporary_path,
    write_errors,
)
from latentdebias.images.find import NO_LABEL
from latentdebias.shards.format import (
    INDEX_DTYPE,
    NPY_HEADER,
    Plan,
    Rejection,
    ShardSummary,
    index_path,
    sample_key,
    shard_name,
    summary_path,
    tar_path,
    write_json,
)
from latentdebias.shards.posterior import moments_of
from latentdebias.shards.statistics import LatentSums


class ShardWriter:
    """A context manager that writes shard number `shard` under a temporary name; only `commit` makes it visible."""

    def __init__(self, directory: Path, plan: Plan, shard: int) -> None:
        self.directory = directory
        self.name = shard_name(shard)
        self.plan = plan
        self.rejected: list[Rejection] = []
        self._index: list[tuple[int, int, int]] = []
        self._sums: list[LatentSums] = []
        self._path = tar_path(directory, self.name)
        self._temporary = temporary_path(self._path)

    def __enter__(self) -> "ShardWriter":
        with write_errors(self._path):
            # Only those of killed processes: a job that was started twice by mistake writes the same shard twice.
            remove_abandoned(self.directory.glob(f"{self.name}.*.tmp"))
            # An old summary, of a shard that has lost its tar, would declare the new one complete too early.
            summary_path(self.directory, self.name).unlink(missing_ok=True)
            self._file = open_locked(self._temporary)
            self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporary.unlink(missing_ok=True)
        with write_errors(self._path):
            self._file.close()

    def add(
        self,
        index: int,
        stored: np.ndarray,
        flipped: np.ndarray | None,
        label: int,
        source: str,
        original_size: tuple[int, int],
    ) -> None:
        """Append the sample of input number `index`.

        `stored` and `flipped` are the values of the image and of its mirror image (None: not stored), of shape
        `plan.stored_shape`; they are cast to `plan.stored_dtype`. `label` is `NO_LABEL` for an input without a class,
        and `original_size` is (width, height) in pixels.
        """
        key = sample_key(index)
        with write_errors(self._path):
            latent = self._add_array(f"{key}.latent.npy", stored)
            flip = -1 if flipped is None else self._add_array(f"{key}.flip.npy", flipped)
            if label != NO_LABEL:
                self._add_member(f"{key}.cls", str(label).encode())
            about = {"source": source, "original_size": original_size}
            self._add_member(f"{key}.json", json.dumps(about).encode())
        self._index.append((latent, flip, label))

    def _add_array(self, member: str, array: np.ndarray) -> int:
        """Append an array to the tar and count it in the sums; returns the byte at which its numbers begin."""
        buffer = io.BytesIO()
        array = array.astype(self.plan.stored_dtype, copy=False)
        np.save(buffer, array)
        assert buffer.tell() - array.nbytes == NPY_HEADER
        self._sums.append(LatentSums.of(moments_of(array, self.plan)))
        return self._add_member(member, buffer.getvalue()) + NPY_HEADER

    def _add_member(self, member: str, data: bytes) -> int:
        info = tarfile.TarInfo(member)
        info.size = len(data)
        info.mode = 0o444
        offset = self._file.tell() + tarfile.BLOCKSIZE
        self._tar.addfile(info, io.BytesIO(data))
        return offset

    def commit(self) -> ShardSummary:
        """Publish the tar, then the index, then the summary, which makes the shard complete."""
        with write_errors(self._path):
            self._tar.close()
            size = self._file.tell()
            self._file.flush()
            sha256 = sha256_of(self._temporary)
            rename_synced(self._file, self._temporary, self._path)
        index = io.BytesIO()
        np.save(index, np.array(self._index, dtype=INDEX_DTYPE))
        publish(index_path(self.directory, self.name), index.getvalue())
        sums = LatentSums.merge(self._sums, self.plan.latent_shape[0])
        summary = ShardSummary(self.name, len(self._index), size, sha256, sums, self.rejected)
        write_json(summary_path(self.directory, self.name), summary)
        return summary
