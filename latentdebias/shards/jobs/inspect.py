"""What a finished shard set tells about itself without its autoencoder: class counts and its inputs' names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentdebias.shards.format import Manifest, read_index, tar_path
from latentdebias.shards.members import read_sample
from latentdebias.shards.reader import LatentShards

RAREST = 3


@dataclass(frozen=True)
class ClassHistogram:
    """Samples of each class, int64 `(num_classes,)`, and the classes' names (indices where a set has none)."""

    counts: np.ndarray
    names: list[str]

    def rarest(self, count: int = RAREST) -> list[tuple[str, int]]:
        """The classes with the fewest samples, rarest first, and how many these are."""
        return [
            (self.names[label], int(self.counts[label])) for label in np.argsort(self.counts, kind="stable")[:count]
        ]


def class_histogram(shards: LatentShards) -> ClassHistogram | None:
    """How many samples each class has; None where the set has no labels."""
    manifest = shards.manifest
    if not manifest.num_classes:
        return None
    counts = np.zeros(manifest.num_classes, np.int64)
    for shard in manifest.shards:
        counts += np.bincount(read_index(shards.directory, shard.name)["label"], minlength=manifest.num_classes)
    return ClassHistogram(counts, manifest.class_names or [str(label) for label in range(manifest.num_classes)])


def source_names(shards: LatentShards, indices: np.ndarray) -> Iterator[str]:
    """The inputs' names, as their `source` members say, of the samples `indices`, which ascend."""
    first = 0
    for shard in shards.manifest.shards:
        rows = indices[(indices >= first) & (indices < first + shard.count)] - first
        first += shard.count
        if len(rows):
            with tar_path(shards.directory, shard.name).open("rb") as file:
                for row in read_index(shards.directory, shard.name)[rows]:
                    yield read_sample(file, row, shards.manifest).source


def summary(manifest: Manifest, directory: Path) -> str:
    """One line: what the set holds, and its latents' mean and standard deviation per channel."""
    mean, std = (", ".join(f"{x:.4f}" for x in row) for row in (manifest.latent_mean, manifest.latent_std))
    return (
        f"{manifest.count} images in {len(manifest.shards)} shards, {len(manifest.rejected)} rejected, "
        f"in {directory}; latent mean [{mean}], std [{std}]"
    )
