"""One contract for every reader of shards: a rank's batches of stored values and labels, equally many on each rank."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latentdebias.errors import UserError
from latentdebias.shards.order import SampleOrder
from latentdebias.shards.reader import LatentShards

StoredBatch = tuple[np.ndarray, np.ndarray]
"""Values as the shards store them `(B, *stored shape)`, and int64 labels `(B,)`, -1 where there is none."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one rank reads of an epoch: `batch_size` samples at a time, each mirrored with `flip_probability`."""

    batch_size: int
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    flip_probability: float = 0.0

    def steps(self, count: int) -> int:
        """Batches that every rank reads of `count` samples; `UserError` where there is not one for each rank."""
        steps = count // (self.world_size * self.batch_size)
        if not steps:
            raise UserError(
                f"{count} samples do not fill one batch of {self.batch_size} on each of {self.world_size} ranks. Set "
                f"the batch size of a rank to {max(count // self.world_size, 1)} or less, or start fewer ranks."
            )
        return steps


class EpochReader(Protocol):
    """Anything that reads a shard set epoch by epoch.

    The remainder that does not fill a batch on every rank is left out; `share.steps(count)` batches are yielded.
    """

    @property
    def count(self) -> int:
        """Samples in the set."""

    def epoch(self, share: Share, epoch: int) -> Iterator[StoredBatch]:
        """The batches of one rank in one epoch."""


@dataclass(frozen=True)
class IndexedReader:
    """Local shards in a global order, which does not depend on the number of ranks; can begin at any step."""

    shards: LatentShards
    order: SampleOrder

    @property
    def count(self) -> int:
        return len(self.shards)

    def epoch(self, share: Share, epoch: int, first_step: int = 0) -> Iterator[StoredBatch]:
        rng = np.random.default_rng((share.seed, epoch, share.rank))
        for step in range(share.steps(self.count)):
            start = (step * share.world_size + share.rank) * share.batch_size
            flipped = rng.random(share.batch_size) < share.flip_probability
            if step >= first_step:
                within = np.arange(start, start + share.batch_size)
                yield self.shards.read(self.order.of_epoch(share.seed, epoch, within, self.count), flipped)
