"""Random access to latent shards: positional reads at the offsets that each shard's index holds."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from latentdebias.errors import UserError, command
from latentdebias.shards.format import (
    FORWARD_BATCH,
    INDEX_DTYPE,
    MANIFEST,
    NPY_HEADER,
    PLAN,
    Manifest,
    Plan,
    ShardRecord,
    complete_summary,
    index_path,
    read_index,
    read_manifest,
    read_plan,
    shard_name,
    tar_path,
)

MAX_OPEN_SHARDS = 256
MAX_LISTED = 10
NPY_MAGIC = b"\x93NUMPY"


class LatentShards:
    """A finished shard set, checked against its manifest and read by sample number.

    `UserError` names the files that are missing, cut short or zeroed, and the command that makes them. `vae`,
    `resolution` and `flips` serve that command where the directory holds no plan. `open_tar`, where it
    is not None, gives the descriptor of a shard's tar by name, as `ShardCache.open_tar` does; no tar need be here then.
    """

    def __init__(
        self,
        directory: Path | str,
        vae: str = "ID_OR_DIR",
        resolution: int | None = None,
        flips: bool = False,
        open_tar: Callable[[str], int] | None = None,
    ) -> None:
        self.directory, self._open_tar = Path(directory), open_tar or partial(_open_tar, Path(directory))
        if open_tar is None and (message := missing_shards_message(self.directory, vae, resolution, flips)):
            raise UserError(message)
        self.manifest: Manifest = read_manifest(self.directory)
        self.latent_shape = self.manifest.latent_shape
        self.num_classes = self.manifest.num_classes
        indexes = [read_index(self.directory, shard.name) for shard in self.manifest.shards]
        self._index = np.concatenate(indexes)
        self._shard_of = np.repeat(np.arange(len(indexes)), [len(index) for index in indexes])
        self._descriptors: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._index)

    def read(self, indices: np.ndarray, flipped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stored values `(B, *stored_shape)` and int64 labels `(B,)` of samples `indices` (int64 `(B,)`).

        The manifest says which: fp16 moments `(2C, h, w)` of a Gaussian posterior, mean then log-variance; fp16
        latents `(C, h, w)`; or uint8 pixels. `draw_latents` makes latents of each. Where `flipped` (bool `(B,)`),
        those of the mirror image; `UserError` if the set holds none.
        """
        rows = self._index[indices]
        offsets = np.where(flipped, rows["flip"], rows["latent"])
        if (offsets < 0).any():
            raise UserError(
                f"{self.directory} holds no mirrored views; encode with --flip, or switch flips off in the config."
            )
        values = np.empty((len(rows), *self.manifest.stored_shape), self.manifest.stored_dtype)
        for row, (shard, offset) in enumerate(zip(self._shard_of[indices].tolist(), offsets.tolist(), strict=True)):
            view = values[row].data
            if os.preadv(self._descriptor(shard), [view], offset) != view.nbytes:
                name = tar_path(self.directory, self.manifest.shards[shard].name)
                raise UserError(
                    f"{name} ends before byte {offset + view.nbytes}, where its index has a sample. "
                    f"Check the set with: {command('encode')} verify {self.directory}"
                )
        return values, rows["label"].copy()

    def _descriptor(self, shard: int) -> int:
        """An open shard's descriptor; positional reads keep no position, so forked workers may share it."""
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


def missing_shards_message(
    directory: Path | str, vae: str = "ID_OR_DIR", resolution: int | None = None, flips: bool = False
) -> str:
    """What `directory` lacks to be a finished shard set, and the command that makes it; empty if it lacks nothing."""
    directory = Path(directory)
    if (directory / MANIFEST).exists():
        return _unusable(directory)
    if (directory / PLAN).exists():
        return _unfinished(directory)
    fault = f"{directory} holds no {MANIFEST}, so it is no set of latent shards"
    if not directory.is_dir():
        fault = f"the folder {directory} does not exist"
    command = _command(directory, vae, resolution or "N", " --flip" * flips)
    return f"Latent shards: {fault}. Make them with: {command}"


def _unusable(directory: Path) -> str:
    manifest = read_manifest(directory)
    faults = [fault for shard in manifest.shards if (fault := _fault(directory, shard, manifest))]
    if not faults:
        return ""
    return (
        f"Latent shards in {directory}: {len(faults)} of {len(manifest.shards)} are unusable: {listed(faults)}. "
        f"Delete what is left of them, and make them again with: {_command_of(directory, manifest)}"
    )


def _unfinished(directory: Path) -> str:
    plan = read_plan(directory)
    names = [shard_name(shard) for shard in range(plan.num_shards)]
    missing = [name for name in names if not complete_summary(directory, name)]
    return (
        f"Latent shards: {directory} is not finished ({MANIFEST} is missing); {len(missing)} of {plan.num_shards} "
        f"shards are still to be made: {listed(missing) or 'none'}. "
        f"Make them with: {_command_of(directory, plan)}"
    )


def listed(items: list[str]) -> str:
    """The first items, and how many more there are: a message stays readable with thousands of shards."""
    more = [f"... and {len(items) - MAX_LISTED} more"] if len(items) > MAX_LISTED else []
    return "; ".join([*items[:MAX_LISTED], *more])


def _command_of(directory: Path, plan: Plan) -> str:
    """The command that `plan` came from: in a folder that was begun, any other is refused."""
    options = f" --samples-per-shard {plan.samples_per_shard}"
    options += f" --forward-batch {plan.forward_batch}" * (plan.forward_batch != FORWARD_BATCH)
    options += " --flip" * plan.flips + " --dtype bf16" * (plan.precision == "bfloat16")
    return _command(directory, plan.autoencoder["id"], plan.resolution, options)


def _command(directory: Path, vae: str, resolution: int | str, options: str) -> str:
    return f"{command('encode')} --images IMAGE_DIR --out {directory} --vae {vae} --resolution {resolution}{options}"


def _fault(directory: Path, shard: ShardRecord, manifest: Manifest) -> str:
    """Why the shard cannot be used, as far as sizes, counts and its first and last sample show; else empty."""
    path = tar_path(directory, shard.name)
    if not path.exists():
        return f"{path.name} is missing"
    if path.stat().st_size != shard.size:
        return f"{path.name} has {path.stat().st_size} bytes instead of {shard.size}"
    name = index_path(directory, shard.name).name
    try:
        index = read_index(directory, shard.name)
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError, EOFError) as error:
        return f"{name} cannot be read ({error})"
    if index.dtype != INDEX_DTYPE or index.shape != (shard.count,):
        return f"{name} does not hold {shard.count} rows of {INDEX_DTYPE.names}"
    if shard.count and not _ends_hold_arrays(path, index):
        return f"{path.name} is overwritten: its index points at bytes that are no array"
    return ""


def _ends_hold_arrays(path: Path, index: np.ndarray) -> bool:
    """Whether the first and the last sample still begin as `.npy` does, which a zero-filled tar does not."""
    with path.open("rb") as file:
        for offset in (index["latent"][0], index["latent"][-1]):
            file.seek(max(offset - NPY_HEADER, 0))
            if file.read(len(NPY_MAGIC)) != NPY_MAGIC:
                return False
    return True
