"""Reads one sample from a shard's tar at the place that the shard's index gives."""

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from latentdebias.errors import UserError, command
from latentdebias.files import parse_json
from latentdebias.shards.format import NPY_HEADER, Plan, stored_array

LATENT, FLIP, ABOUT = "latent.npy", "flip.npy", "json"


@dataclass(frozen=True)
class StoredSample:
    """The content of one sample in a tar.

    `latent` and `flipped` are the stored values of the image and of its mirror image, of the plan's stored shape and
    dtype; `flipped` is None in a set without mirror images. `source` is the input's name, and `original_size` its
    (width, height) in pixels before the crop.
    """

    latent: np.ndarray
    flipped: np.ndarray | None
    source: str
    original_size: tuple[int, int]


def read_sample(file: BinaryIO, row: np.void, plan: Plan) -> StoredSample:
    """The sample that index row `row` points to in the open tar `file`; `UserError` where the tar does not hold it."""
    parts = _read_parts(file, int(row["latent"]) - NPY_HEADER - tarfile.BLOCKSIZE)
    try:
        about = parse_json(parts[ABOUT])
        width, height = about["original_size"]
        flipped = stored_array(parts[FLIP], plan) if row["flip"] >= 0 else None
        return StoredSample(stored_array(parts[LATENT], plan), flipped, about["source"], (width, height))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file.name} holds no whole sample at byte {row['latent']}, where its index has one "
            f"({type(error).__name__}: {error}). Check the set with: {command('encode')} verify "
            f"{Path(file.name).parent}"
        ) from None


def _read_parts(file: BinaryIO, start: int) -> dict[str, bytes]:
    """Extension -> content of the files of one sample, the first of which has its tar header at byte `start`."""
    file.seek(max(start, 0))
    parts: dict[str, bytes] = {}
    sample = ""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                sample = sample or key
                if key != sample:
                    break
                reader = tar.extractfile(member) if member.isreg() else None
                parts[extension] = reader.read() if reader else b""
    except tarfile.TarError:
        pass  # what is missing from `parts` is reported by name
    return parts
