"""Latent shards as a source of the images that their latents decode to."""

from dataclasses import dataclass

import numpy as np
import torch

from latentdebias.autoencoders import Autoencoder, to_uint8
from latentdebias.errors import UserError, command
from latentdebias.evaluation.sources.source import ImageBatch, Indexed
from latentdebias.files import sha256_of
from latentdebias.precision import computing_in
from latentdebias.shards.format import MANIFEST
from latentdebias.shards.posterior import latent_means
from latentdebias.shards.reader import LatentShards


@dataclass(frozen=True)
class OfShards(Indexed):
    """Base class of sources with one image for each sample of a latent shard set, in the set's order."""

    shards: LatentShards

    @property
    def count(self) -> int:
        return len(self.shards)

    @property
    def num_classes(self) -> int | None:
        return self.shards.num_classes or None


@dataclass(frozen=True)
class ShardImages(OfShards):
    """The images that the posterior means of a shard set decode to, without mirrored views.

    These are the autoencoder's reconstructions, so scores against them do not count the autoencoder's own error.
    Raises `UserError` where the shards were made with another autoencoder's weights.
    """

    autoencoder: Autoencoder
    batch_size: int = 64

    def __post_init__(self) -> None:
        made_with, given = self.shards.manifest.autoencoder, self.autoencoder.identity
        if made_with["weights_sha256"] != given.weights_sha256:
            raise UserError(
                f"The latents in {self.shards.directory} were made with the autoencoder {made_with['id']!r} (weights "
                f"{made_with['weights_sha256'][:12]}), and {given.id!r} ({given.weights_sha256[:12]}) cannot "
                f"decode them: pass the first one, or encode again with {command('encode')} --vae {given.id}."
            )

    def read(self, indices: np.ndarray) -> ImageBatch:
        """Decoded images number `indices` (B,) int64, with their labels where the shards have classes."""
        stored, labels = self.shards.read(indices, flipped=np.zeros(len(indices), dtype=bool))
        means = latent_means(torch.from_numpy(stored), self.shards.manifest)
        with computing_in("fp32"):
            images = to_uint8(self.autoencoder.decode(means))
        return ImageBatch(images, torch.from_numpy(labels) if self.num_classes else None)

    def fingerprint(self) -> str:
        """The sha256 of the manifest, which holds the sha256 of every shard and of the autoencoder's weights."""
        return sha256_of(self.shards.directory / MANIFEST)
