"""One latent shard set out of several, without encoding or rewriting a latent."""

import dataclasses
import os
import shutil
from pathlib import Path

from tqdm import tqdm

from latentdebias.errors import UserError, command
from latentdebias.files import published
from latentdebias.shards.format import (
    PLAN,
    Manifest,
    Plan,
    ShardRecord,
    ShardSummary,
    complete_summary,
    index_path,
    shard_name,
    summary_path,
    tar_path,
    write_json,
    write_manifest,
)
from latentdebias.shards.jobs.new_set import new_set, plan_of_new_set
from latentdebias.shards.reader import LatentShards

MAY_DIFFER = {"samples_per_shard", "num_inputs", "inputs_sha256"}


def merge(out: Path, directories: list[Path]) -> Manifest:
    """Make the set `out` of the shards of all `directories`, in that order and numbered anew.

    The tars and indexes are hard links where the file system allows, else copies. Their bytes stay the same, and with
    them the samples' keys: two tars may hold equal keys, which WebDataset tells apart by their tar, and `LatentShards`
    reads by offset. Raises `UserError` before anything is written where a set is unfinished, is named twice or was
    made with other settings.
    """
    _check_no_set_twice(directories)
    manifests = [LatentShards(directory).manifest for directory in directories]
    for directory, manifest in zip(directories[1:], manifests[1:], strict=True):
        _check_same_settings(directories[0], manifests[0], directory, manifest)
    shards = [
        (directory, _summary(directory, record))
        for directory, manifest in zip(directories, manifests, strict=True)
        for record in manifest.shards
    ]
    plan = plan_of_new_set(
        manifests[0],
        ["merge", [manifest.inputs_sha256 for manifest in manifests]],
        samples_per_shard=max(manifest.samples_per_shard for manifest in manifests),
        num_inputs=sum(manifest.num_inputs for manifest in manifests),
        num_classes=manifests[0].num_classes,
        class_names=manifests[0].class_names,
    )
    with new_set(out) as fresh:
        write_json(fresh / PLAN, plan)
        summaries = [
            _adopt(directory, summary, fresh, shard_name(number))
            for number, (directory, summary) in enumerate(tqdm(shards, desc="merge", unit="shard"))
        ]
        return write_manifest(fresh, plan, summaries)


def _check_no_set_twice(directories: list[Path]) -> None:
    places = [directory.resolve() for directory in directories]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(f"{directories[number]} is named twice, and would put each of its samples in twice.")


def _check_same_settings(first: Path, expected: Manifest, directory: Path, found: Manifest) -> None:
    one, other = _settings(expected), _settings(found)
    names = sorted(one.keys() | other.keys())
    differing = [name for name in names if one.get(name) != other.get(name)]
    if differing:
        changes = "; ".join(f"{name} is {one.get(name)!r:.200} and {other.get(name)!r:.200}" for name in differing)
        raise UserError(
            f"{first} and {directory} were made with different settings, and one set never mixes two: {changes}. "
            f"Encode one of them again with the settings of the other, or keep them apart."
        )


def _settings(manifest: Manifest) -> dict[str, object]:
    """Field -> value of the settings that merged sets must share.

    The autoencoder's id is left out: it says where the autoencoder was found, and the sha256s say which one it is.
    """
    fields = [field.name for field in dataclasses.fields(Plan) if field.name not in MAY_DIFFER]
    settings = {name: getattr(manifest, name) for name in fields if name != "autoencoder"}
    identity = {f"autoencoder.{name}": value for name, value in manifest.autoencoder.items() if name != "id"}
    return settings | identity


def _summary(directory: Path, record: ShardRecord) -> ShardSummary:
    """The summary of a shard, the only file with its sums; `UserError` where it is missing or not the manifest's."""
    summary = complete_summary(directory, record.name)
    if summary is None:
        raise UserError(
            f"{summary_path(directory, record.name)} is missing, and with it the shard's sums for the statistics. "
            f"Copy the whole folder {directory}, or run the {command('encode')} command that made it again."
        )
    if (summary.count, summary.sha256) != (record.count, record.sha256):
        raise UserError(
            f"{directory}: the summary and the manifest disagree about {record.name}. Run the "
            f"{command('encode')} command that made the set again."
        )
    return summary


def _adopt(directory: Path, summary: ShardSummary, out: Path, name: str) -> ShardSummary:
    """Link or copy a shard into `out` under the name `name`: the tar, the index, and last the summary."""
    _link_or_copy(tar_path(directory, summary.name), tar_path(out, name))
    _link_or_copy(index_path(directory, summary.name), index_path(out, name))
    adopted = dataclasses.replace(summary, name=name)
    write_json(summary_path(out, name), adopted)
    return adopted


def _link_or_copy(source: Path, target: Path) -> None:
    # The link is made to the file itself: one to a symbolic link would break when the input moves.
    try:
        os.link(source.resolve(), target)
    except OSError:
        with published(target) as copy, source.open("rb") as original:
            shutil.copyfileobj(original, copy, length=2**20)
