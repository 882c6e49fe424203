"""Whether a folder holds a finished, undamaged shard set, and the command that makes one where it does not."""

from pathlib import Path

import numpy as np

from latentdebias.errors import UserError, command
from latentdebias.shards.format import (
    FORWARD_BATCH,
    MANIFEST,
    NPY_HEADER,
    PLAN,
    Manifest,
    Plan,
    ShardRecord,
    complete_summary,
    index_path,
    read_plan,
    shard_name,
    tar_path,
)
from latentdebias.shards.index_file import read_index

MAX_LISTED = 10
NPY_MAGIC = b"\x93NUMPY"


def refuse_absent(directory: Path, vae: str = "ID_OR_DIR", resolution: int | None = None, flips: bool = False) -> None:
    """Raise `UserError` where no shard set was ever begun in `directory`.

    The message holds the command that makes one, with `vae`, `resolution` and `flips` where the caller knows them.
    """
    if (directory / MANIFEST).exists() or (directory / PLAN).exists():
        return
    fault = f"{directory} holds no {MANIFEST}, so it is no set of latent shards"
    if not directory.is_dir():
        fault = f"the folder {directory} does not exist"
    make = _command(directory, vae, resolution or "N", " --flip" * flips)
    raise UserError(f"Latent shards: {fault}. Make them with: {make}")


def refuse_unfinished(directory: Path) -> None:
    """Raise `UserError` where `directory` holds no manifest; the message lists the shards that are still to be made."""
    refuse_absent(directory)
    if (directory / MANIFEST).exists():
        return
    plan = read_plan(directory)
    names = [shard_name(shard) for shard in range(plan.num_shards)]
    missing = [name for name in names if not complete_summary(directory, name)]
    raise UserError(
        f"Latent shards: {directory} is not finished ({MANIFEST} is missing); {len(missing)} of {plan.num_shards} "
        f"shards are still to be made: {listed(missing) or 'none'}. "
        f"Make them with: {_command_of(directory, plan)}"
    )


def checked_indexes(directory: Path, manifest: Manifest) -> list[np.ndarray]:
    """The index of every shard, each of shape `(count,)` and dtype `INDEX_DTYPE`.

    Raises `UserError`, which lists the shards whose files are missing, cut short or zeroed. Only sizes, counts and
    the first bytes of each tar's first and last sample are checked.
    """
    indexes, faults = [], []
    for shard in manifest.shards:
        try:
            indexes.append(_checked_index(directory, shard, manifest))
        except _UnusableShard as error:
            faults.append(str(error))
    if faults:
        raise UserError(
            f"Latent shards in {directory}: {len(faults)} of {len(manifest.shards)} are unusable: {listed(faults)}. "
            f"Delete what is left of them, and make them again with: {_command_of(directory, manifest)}"
        )
    return indexes


def listed(items: list[str]) -> str:
    """The first `MAX_LISTED` items and how many more there are, so that a message about many shards stays readable."""
    more = [f"... and {len(items) - MAX_LISTED} more"] if len(items) > MAX_LISTED else []
    return "; ".join([*items[:MAX_LISTED], *more])


def _command_of(directory: Path, plan: Plan) -> str:
    """The encode command with the settings of `plan`, the only ones with which its folder can be continued."""
    options = f" --samples-per-shard {plan.samples_per_shard}"
    options += f" --forward-batch {plan.forward_batch}" * (plan.forward_batch != FORWARD_BATCH)
    options += " --flip" * plan.flips + {"bfloat16": " --dtype bf16", "tf32": " --dtype tf32"}.get(plan.precision, "")
    return _command(directory, plan.autoencoder["id"], plan.resolution, options)


def _command(directory: Path, vae: str, resolution: int | str, options: str) -> str:
    return f"{command('encode')} --images IMAGE_DIR --out {directory} --vae {vae} --resolution {resolution}{options}"


class _UnusableShard(Exception):
    """Why one shard cannot be used."""


def _checked_index(directory: Path, shard: ShardRecord, manifest: Manifest) -> np.ndarray:
    path = tar_path(directory, shard.name)
    if not path.exists():
        raise _UnusableShard(f"{path.name} is missing")
    if path.stat().st_size != shard.size:
        raise _UnusableShard(f"{path.name} has {path.stat().st_size} bytes instead of {shard.size}")
    name = index_path(directory, shard.name).name
    try:
        index = read_index(directory, shard, manifest)
    except FileNotFoundError:
        raise _UnusableShard(f"{name} is missing") from None
    except (OSError, ValueError) as error:
        raise _UnusableShard(f"{name} cannot be read ({error})") from None
    if shard.count and not _ends_hold_arrays(path, index):
        raise _UnusableShard(f"{path.name} is overwritten: its index points at bytes that are no array")
    return index


def _ends_hold_arrays(path: Path, index: np.ndarray) -> bool:
    """Whether the first and the last sample begin with the magic bytes of `.npy`, as in a tar that was not zeroed."""
    with path.open("rb") as file:
        for offset in (index["latent"][0], index["latent"][-1]):
            file.seek(max(offset - NPY_HEADER, 0))
            if file.read(len(NPY_MAGIC)) != NPY_MAGIC:
                return False
    return True
