"""What the streaming reader reads of a set, and what its lanes say that it should."""

from itertools import chain, islice

import numpy as np

from latentdebias.batches.plan import plan_batches
from latentdebias.batches.streaming import StreamedSet, StreamingReader
from latentdebias.shards.reader import LatentShards

COUNT = 21
SMALL = StreamingReader(shuffle_buffer=6, shards_at_once=3)


def rows(values, labels):
    """What identifies each sample: its stored bytes and its label."""
    return [(value.tobytes(), label) for value, label in zip(values, labels.tolist(), strict=True)]


def everything(directory, flipped=False):
    """Every sample of a set, in the order of the set, read by its number."""
    return everything_of(LatentShards(directory), flipped)


def everything_of(shards, flipped=False):
    """Every sample of `shards`, in the order of the set."""
    return rows(*shards.read(np.arange(len(shards)), np.full(len(shards), flipped)))


def read_rows(url, plan, micro_steps, flipped=False, options=SMALL):
    """What the streaming reader gives in `micro_steps`."""
    views = StreamedSet(str(url), options).samples(plan, micro_steps)
    return list(chain.from_iterable(rows(*view(np.full(plan.micro_batch_size, flipped))) for view in views))


def read_all(url, count=COUNT):
    """The samples of the first epoch of the only rank, shard after shard."""
    options = StreamingReader(shuffle_buffer=6, shards_at_once=1)
    return read_rows(url, plan_batches(0, 1, None, 0, 1), range(count), options=options)


def numbers_read(lane, windows):
    """The numbers in the set of the samples of the windows, in the order in which they are read."""
    first_of = np.cumsum(lane.shard_sizes) - lane.shard_sizes
    for window in windows:
        for part in window.parts:
            slices = lane.slices(window.epoch, part.start)
            ranges = (range(first_of[s.shard] + s.start, first_of[s.shard] + s.stop) for s in slices)
            yield from islice(chain.from_iterable(ranges), len(part))


def numbers_trained(lane, count, first=0):
    """The numbers of `count` samples in the order in which the rank trains them, from its sample `first` on."""
    return list(islice(lane.trained(first, numbers_read(lane, lane.windows(first))), count))
