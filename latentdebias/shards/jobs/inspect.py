"""What a finished shard set tells about itself without its autoencoder: class counts and its inputs' names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentdebias.shards.format import Manifest, tar_path
from latentdebias.shards.reader import LatentShards
from latentdebias.shards.stored_sample import read_sample

RAREST = 3


@dataclass(frozen=True)
class ClassHistogram:
    """The number of samples of each class, int64 `(num_classes,)`, and the classes' names (else their indices)."""

    counts: np.ndarray
    names: list[str]

    def rarest(self, count: int = RAREST) -> list[tuple[str, int]]:
        """The `count` classes with the fewest samples, rarest first, each with its number of samples."""
        return [
            (self.names[label], int(self.counts[label])) for label in np.argsort(self.counts, kind="stable")[:count]
        ]


def class_histogram(shards: LatentShards) -> ClassHistogram | None:
    """How many samples each class has; None where the set has no labels."""
    manifest = shards.manifest
    if not manifest.num_classes:
        return None
    counts = np.bincount(shards.index["label"], minlength=manifest.num_classes)
    return ClassHistogram(counts, manifest.class_names or [str(label) for label in range(manifest.num_classes)])


def source_names(shards: LatentShards, indices: np.ndarray) -> Iterator[str]:
    """The names of the inputs that the samples `indices` were made from; `indices` must ascend."""
    for number, shard in enumerate(shards.manifest.shards):
        rows = shards.index[indices[shards.shard_of[indices] == number]]
        if len(rows):
            with tar_path(shards.directory, shard.name).open("rb") as file:
                for row in rows:
                    yield read_sample(file, row, shards.manifest).source


def summary(manifest: Manifest, directory: Path) -> str:
    """One line that says what the set holds, and its latents' mean and standard deviation per channel."""
    mean, std = (", ".join(f"{x:.4f}" for x in row) for row in (manifest.latent_mean, manifest.latent_std))
    return (
        f"{manifest.count} images in {len(manifest.shards)} shards, {len(manifest.rejected)} rejected, "
        f"in {directory}; latent mean [{mean}], std [{std}]"
    )
