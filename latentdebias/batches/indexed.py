"""The indexed reader: samples by number, of a set on a disk, or at an address through a cache of local copies."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from latentdebias.batches.options import READERS, DataOptions, Reader
from latentdebias.batches.order import SampleOrder
from latentdebias.batches.plan import BatchPlan
from latentdebias.batches.reader import TrainingSet, Views
from latentdebias.errors import UserError
from latentdebias.shards.cache import ShardCache
from latentdebias.shards.completeness import refuse_absent
from latentdebias.shards.reader import LatentShards


class IndexedSet(TrainingSet):
    """Shards read by sample number, in a global order that does not depend on ranks, workers or micro-batches."""

    def __init__(self, shards: LatentShards, order: SampleOrder) -> None:
        self.shards, self.order, self.manifest = shards, order, shards.manifest

    def samples(self, plan: BatchPlan, micro_steps: range) -> Iterator[Views]:
        """For each micro-step, a function that reads the samples at the rank's positions in the order.

        Its argument and results have the shapes that `TrainingSet.samples` states.
        """
        for micro_step in micro_steps:
            yield partial(self.shards.read, self.order.indices(plan.seed, plan.positions(micro_step), len(self.shards)))


@READERS.register("indexed")
@dataclass(frozen=True)
class IndexedReader(Reader):
    """Reads samples by their number, through each shard's index, in the order of `data.order`.

    A set at an address is read through local copies of its shards in the folder `data.cache`.
    """

    def open(self, data: DataOptions) -> IndexedSet:
        """The set of `data.shards`; `UserError` where files are missing or cut short, or an address lacks a cache."""
        shards = _remote_shards(data) if "://" in data.shards else _local_shards(data)
        return IndexedSet(shards, data.order)


def _local_shards(data: DataOptions) -> LatentShards:
    refuse_absent(Path(data.shards), data.vae or "ID_OR_DIR", data.resolution, data.flip)
    return LatentShards(data.shards)


def _remote_shards(data: DataOptions) -> LatentShards:
    if data.cache is None:
        raise UserError(
            f"data.shards {data.shards!r} is an address, and data.reader indexed reads its shards through local "
            f"copies; name a folder for them, one a set: --set data.cache=FOLDER. Or read them in sequence, without "
            f"copies: --set data.reader=streaming"
        )
    return ShardCache(data.shards, data.cache, int(data.cache_gb * 1e9)).open()
