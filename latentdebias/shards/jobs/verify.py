"""The full check of a latent shard set: every byte read once, against sha256s, indexes and the format."""

import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentdebias.errors import UserError, command
from latentdebias.files import sha256_of
from latentdebias.images.find import NO_LABEL
from latentdebias.shards.completeness import listed
from latentdebias.shards.format import (
    NPY_HEADER,
    Manifest,
    ShardRecord,
    stored_array,
    tar_path,
)
from latentdebias.shards.index_file import read_index
from latentdebias.shards.reader import LatentShards


def verify(directory: Path) -> Manifest:
    """Check every sha256, size, count, index entry and number in `directory`; `UserError` lists all that is wrong."""
    manifest = LatentShards(directory).manifest
    faults: list[str] = []
    if (total := sum(shard.count for shard in manifest.shards)) != manifest.count:
        faults.append(f"the manifest counts {manifest.count} samples and its shards {total}")
    for shard in tqdm(manifest.shards, desc="verify", unit="shard"):
        faults += _shard_faults(directory, shard, manifest)
    if faults:
        raise UserError(
            f"{directory} failed verification: {listed(faults)}. Delete the files of these "
            f"shards and run the {command('encode')} command that made the set again: it rewrites only them."
        )
    return manifest


def _shard_faults(directory: Path, shard: ShardRecord, manifest: Manifest) -> Iterator[str]:
    path = tar_path(directory, shard.name)
    if sha256_of(path) != shard.sha256:
        yield f"{path.name} does not have the sha256 in the manifest"
    try:
        samples = _read_samples(path)
    except (OSError, tarfile.TarError) as error:
        yield f"{path.name} cannot be read as a tar ({error})"
        return
    index = read_index(directory, shard, manifest)
    if len(samples) != len(index):
        yield f"{path.name} holds {len(samples)} samples and its index {len(index)}"
    for (key, members), row in zip(samples.items(), index, strict=False):
        for fault in _sample_faults(members, row, manifest):
            yield f"{path.name}: sample {key}: {fault}"


def _read_samples(path: Path) -> dict[str, dict[str, tuple[int, bytes]]]:
    """Sample key -> extension -> the byte of the tar at which a member's content begins, and that content."""
    samples: dict[str, dict[str, tuple[int, bytes]]] = defaultdict(dict)
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            reader = tar.extractfile(member) if member.isreg() else None
            key, _, extension = member.name.partition(".")
            samples[key][extension] = (member.offset_data, reader.read() if reader else b"")
    return samples


def _sample_faults(members: dict[str, tuple[int, bytes]], row: np.ndarray, manifest: Manifest) -> Iterator[str]:
    views = {"latent": "latent.npy", "flip": "flip.npy"} if manifest.flips else {"latent": "latent.npy"}
    for view, extension in views.items():
        if extension not in members:
            yield f"no {extension}"
            continue
        offset, data = members[extension]
        if row[view] != offset + NPY_HEADER:
            yield f"the index does not point at {extension}"
        if not _is_finite_array(data, manifest):
            yield f"{extension} is no finite {manifest.dtype} array of shape {manifest.stored_shape}"
    stored = members["cls"][1] if "cls" in members else str(NO_LABEL).encode()
    if stored != str(row["label"]).encode() or not NO_LABEL <= row["label"] < manifest.num_classes:
        yield f"label {stored!r} in the tar, {row['label']} in the index, {manifest.num_classes} classes"


def _is_finite_array(data: bytes, manifest: Manifest) -> bool:
    try:
        return bool(np.isfinite(stored_array(data, manifest)).all())
    except ValueError:
        return False
