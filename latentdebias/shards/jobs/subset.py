"""A smaller latent shard set out of a finished one, without the autoencoder: stored latents are copied bit for bit."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentdebias.errors import UserError, command, legal_choices
from latentdebias.files import sha256_of
from latentdebias.images.find import NO_LABEL
from latentdebias.shards.format import PLAN, Manifest, tar_path, write_json, write_manifest
from latentdebias.shards.jobs.new_set import new_set, plan_of_new_set
from latentdebias.shards.reader import LatentShards
from latentdebias.shards.stored_sample import StoredSample, read_sample
from latentdebias.shards.writer import ShardWriter


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which samples of a set to keep: all of `classes`, or `num` of these, or `per_class` of each class.

    `classes` are names or, in a set without names, indices as text; None means all classes. `seed` decides which of
    the samples `num` and `per_class` choose.
    """

    classes: tuple[str, ...] | None = None
    num: int | None = None
    per_class: int | None = None
    seed: int = 0


def subset(out: Path, directory: Path, selection: Selection) -> Manifest:
    """Make the set `out` of the selected samples of the set in `directory`, in their old order under new keys.

    With `selection.classes` the labels become 0, 1, ... in the order of the old ones. Raises `UserError` where the set
    has no such samples, or the sha256 of a tar is not the manifest's, so that no damage is copied into a set that
    verifies; `out` is not made then.
    """
    shards = LatentShards(directory)
    manifest = shards.manifest
    classes = kept_classes(manifest, selection)
    chosen = _choose(shards.index["label"], classes, manifest, selection)
    plan = plan_of_new_set(
        manifest,
        ["subset", manifest.inputs_sha256, classes, hashlib.sha256(chosen.tobytes()).hexdigest()],
        samples_per_shard=manifest.samples_per_shard,
        num_inputs=len(chosen),
        num_classes=len(classes),
        class_names=[manifest.class_names[label] for label in classes] if manifest.class_names else [],
    )
    new_label = {label: number for number, label in enumerate(classes)} | {NO_LABEL: NO_LABEL}
    samples = _stored(shards, chosen)
    with new_set(out) as fresh, tqdm(desc="subset", unit="sample", total=len(chosen)) as bar:
        write_json(fresh / PLAN, plan)
        summaries = []
        for shard in range(plan.num_shards):
            with ShardWriter(fresh, plan, shard) as writer:
                for number in plan.inputs_of(shard):
                    label, stored = next(samples)
                    latent, flipped = stored.latent, stored.flipped
                    writer.add(number, latent, flipped, new_label[label], stored.source, stored.original_size)
                    bar.update()
                summaries.append(writer.commit())
        return write_manifest(fresh, plan, summaries)


def kept_classes(manifest: Manifest, selection: Selection) -> list[int]:
    """The labels of the classes that `selection` keeps, ascending; `UserError` where the set has no such class."""
    if selection.classes is None:
        return list(range(manifest.num_classes))
    names = manifest.class_names or [str(label) for label in range(manifest.num_classes)]
    if not names:
        raise UserError(f"--classes {','.join(selection.classes)}: the set has no labels; choose with --num instead.")
    for name in selection.classes:
        if name not in names:
            raise UserError(f"Unknown class {name!r}. {legal_choices(name, names)}")
    return sorted({names.index(name) for name in selection.classes})


def _choose(labels: np.ndarray, classes: list[int], manifest: Manifest, selection: Selection) -> np.ndarray:
    """The numbers of the samples to keep, ascending, int64 `(count,)`."""
    assert selection.num is None or selection.per_class is None, "num and per_class exclude one another"
    if selection.seed < 0:
        raise UserError(f"--seed {selection.seed} is negative; take any integer from 0 on.")
    if selection.per_class is not None:
        return _choose_per_class(labels, classes, selection.per_class, manifest, selection.seed)
    candidates = np.arange(len(labels)) if selection.classes is None else np.flatnonzero(np.isin(labels, classes))
    count = len(candidates) if selection.num is None else selection.num
    if not 1 <= count <= len(candidates):
        raise UserError(f"--num {count} is not to be had: ask for 1 to {len(candidates)} samples.")
    return np.sort(np.random.default_rng(selection.seed).choice(candidates, count, replace=False))


def _choose_per_class(
    labels: np.ndarray, classes: list[int], per_class: int, manifest: Manifest, seed: int
) -> np.ndarray:
    if not classes:
        raise UserError("--per-class: the set has no labels; choose with --num instead.")
    parts = []
    for label in classes:
        candidates = np.flatnonzero(labels == label)
        if not 1 <= per_class <= len(candidates):
            name = manifest.class_names[label] if manifest.class_names else label
            raise UserError(
                f"--per-class {per_class} is not to be had: class {name!r} holds {len(candidates)} samples. Ask "
                f"for 1 to that many, or leave that class out with --classes."
            )
        # Each class has a generator of its own, so that its samples are the same whichever other classes are kept.
        parts.append(np.random.default_rng((seed, label)).choice(candidates, per_class, replace=False))
    return np.sort(np.concatenate(parts))


def _stored(shards: LatentShards, chosen: np.ndarray) -> Iterator[tuple[int, StoredSample]]:
    """Label and content of the samples numbered `chosen`, which must ascend: then each tar is opened once."""
    for number, shard in enumerate(shards.manifest.shards):
        rows = shards.index[chosen[shards.shard_of[chosen] == number]]
        if not len(rows):
            continue
        path = tar_path(shards.directory, shard.name)
        if sha256_of(path) != shard.sha256:
            raise UserError(
                f"{path} does not have the sha256 in the manifest. List all that is damaged with: "
                f"{command('encode')} verify {shards.directory}"
            )
        with path.open("rb") as file:
            for row in rows:
                yield int(row["label"]), read_sample(file, row, shards.manifest)
