"""Random access to latent shards: positional reads at the offsets that each shard's index holds."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from latentdebias.errors import UserError, command
from latentdebias.shards.completeness import checked_indexes, refuse_unfinished
from latentdebias.shards.format import Manifest, read_manifest, tar_path
from latentdebias.shards.index_file import read_index

MAX_OPEN_SHARDS = 256


class LatentShards:
    """A finished shard set, checked against its manifest and read by sample number.

    `index`, of shape `(N,)` and dtype `INDEX_DTYPE`, holds the index rows of all N samples, and `shard_of`, int64
    `(N,)`, the numbers of their shards.

    `open_tar` takes the name of a shard and gives an open file descriptor of its tar. Without it the tars are those
    in `directory`, and `UserError` names the files that are missing, cut short or zeroed, and the command that makes
    them. With it, as with `ShardCache.open_tar`, the tars need not be in `directory` and are not checked.
    """

    def __init__(
        self,
        directory: Path | str,
        open_tar: Callable[[str], int] | None = None,
    ) -> None:
        self.directory, self._open_tar = Path(directory), open_tar or partial(_open_tar, Path(directory))
        refuse_unfinished(self.directory)
        self.manifest: Manifest = read_manifest(self.directory)
        self.latent_shape = self.manifest.latent_shape
        self.num_classes = self.manifest.num_classes
        if open_tar is None:
            indexes = checked_indexes(self.directory, self.manifest)
        else:
            indexes = [read_index(self.directory, shard, self.manifest) for shard in self.manifest.shards]
        self.index = np.concatenate(indexes)
        self.shard_of = np.repeat(np.arange(len(indexes)), [len(index) for index in indexes])
        self._descriptors: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.index)

    def read(self, indices: np.ndarray, flipped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stored values `(B, *stored_shape)` and int64 labels `(B,)` of samples `indices` (int64 `(B,)`).

        Where `flipped` (bool `(B,)`) is true, the values are those of the mirror image. The manifest says what is
        stored: float16 moments `(2C, h, w)` of a Gaussian posterior, mean then log-variance; float16 latents
        `(C, h, w)`; or uint8 pixels `(C, h, w)`. `draw_latents` makes latents of each. Raises `UserError` where the
        set holds no mirror images, or a tar is shorter than its index says.
        """
        rows = self.index[indices]
        offsets = np.where(flipped, rows["flip"], rows["latent"])
        if (offsets < 0).any():
            raise UserError(
                f"{self.directory} holds no mirrored views; encode with --flip, or switch flips off in the config."
            )
        values = np.empty((len(rows), *self.manifest.stored_shape), self.manifest.stored_dtype)
        for row, (shard, offset) in enumerate(zip(self.shard_of[indices].tolist(), offsets.tolist(), strict=True)):
            view = values[row].data
            if os.preadv(self._descriptor(shard), [view], offset) != view.nbytes:
                name = tar_path(self.directory, self.manifest.shards[shard].name)
                raise UserError(
                    f"{name} ends before byte {offset + view.nbytes}, where its index has a sample. "
                    f"Check the set with: {command('encode')} verify {self.directory}"
                )
        return values, rows["label"].copy()

    def _descriptor(self, shard: int) -> int:
        """The file descriptor of the tar of shard number `shard`, opened when it is first asked for.

        Forked workers may share it, because positional reads move no file position.
        """
        if shard not in self._descriptors:
            if len(self._descriptors) >= MAX_OPEN_SHARDS:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[shard] = self._open_tar(self.manifest.shards[shard].name)
        return self._descriptors[shard]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)


def _open_tar(directory: Path, name: str) -> int:
    return os.open(tar_path(directory, name), os.O_RDONLY)
