"""The order in which each rank of the streaming reader reads and trains a set: pure functions, which read no shard."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TypeVar

import numpy as np

from latentdebias.batches.order import permutation

T = TypeVar("T")


@dataclass(frozen=True)
class Slice:
    """Samples [start, stop) of the shard with number `shard` in the manifest."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Window:
    """Samples of one rank that are held in memory together and trained in a random order.

    `parts` are the places in the epoch's row (see `Lane`) that are read for the window, one range for each track;
    `first` counts the samples that the rank trains in the run before the window.
    """

    epoch: int
    number: int
    first: int
    parts: tuple[range, ...]

    @property
    def size(self) -> int:
        """The number of samples in the window."""
        return sum(map(len, self.parts))


@dataclass(frozen=True)
class Lane:
    """The samples of one rank in their order, which depends on the seed, the ranks, the set and two options.

    An epoch's row is all N samples, shard after shard, in a permutation of the shards. It is cut into one piece a
    rank, [floor(p N / W), floor((p + 1) N / W)) for p = 0 .. W - 1 of W ranks, and rank r has piece (r + e) mod W in
    epoch e. So every sample is read once an epoch, no piece is longer than another by more than one sample, and no
    rank is ever ahead of another by more than one.

    A piece is cut into up to `shards_at_once` equal tracks, which are read side by side, and each track into equal
    parts. The n-th parts of all tracks make up the n-th window, which holds about `shuffle_buffer` samples.
    """

    shard_sizes: tuple[int, ...]
    shuffle_buffer: int
    shards_at_once: int
    seed: int
    rank: int
    world_size: int

    def windows(self, first: int) -> Iterator[Window]:
        """The rank's windows without end, from the one that holds its sample number `first`, counted over the run."""
        total = sum(self.shard_sizes)
        # Counted over all epochs, a rank's places are consecutive: piece p + 1 follows where piece p ends.
        offset = self.rank * total // self.world_size
        place = first + offset
        while True:
            piece, start, stop = _part_at(place, total, self.world_size)
            row = piece // self.world_size * total
            tracks = self._tracks(start, stop)
            count = -(-(stop - start) // self.shuffle_buffer)
            begins = [sum(number * len(track) // count for track in tracks) for number in range(count)]
            for number in range(bisect_right(begins, place - start) - 1, count):
                parts = tuple(_part(track, number, count, row) for track in tracks)
                yield Window(piece - self.rank, number, start + begins[number] - offset, parts)
            place = stop

    def _tracks(self, start: int, stop: int) -> list[range]:
        size = stop - start
        shards_in_piece = -(-size * len(self.shard_sizes) // sum(self.shard_sizes))
        count = min(self.shards_at_once, shards_in_piece)
        return [range(start + n * size // count, start + (n + 1) * size // count) for n in range(count)]

    def order_within(self, window: Window) -> list[int]:
        """The order in which the samples of a window, numbered as they are read, are trained."""
        # Windows count from 1: for rank 0 numpy reads (seed, epoch, 0, 0) as (seed, epoch), the shards' permutation.
        rng = np.random.default_rng((self.seed, window.epoch, self.rank, window.number + 1))
        order: list[int] = rng.permutation(window.size).tolist()
        return order

    def slices(self, epoch: int, place: int) -> Iterator[Slice]:
        """The slices of shards that make up an epoch's row from `place` to its end."""
        shards, begins = _row(self.seed, epoch, self.shard_sizes)
        for turn in range(bisect_right(begins, place) - 1, len(shards)):
            size = self.shard_sizes[shards[turn]]
            if (start := max(place - begins[turn], 0)) < size:
                yield Slice(shards[turn], start, size)

    def trained(self, first: int, read: Iterator[T]) -> Iterator[T]:
        """The rank's samples in the order of training, beginning with the rank's sample number `first` of the run.

        `read` gives the samples without end in the order of `windows(first)`. While one window is trained, the next is
        read at the same pace, so that about one window is held at a time.
        """
        windows = self.windows(first)
        window = next(windows)
        held: list[T | None] = list(islice(read, window.size))
        for following in windows:
            coming: list[T | None] = []
            for number, index in enumerate(self.order_within(window)):
                coming += islice(read, min(number, following.size) - len(coming))
                sample, held[index] = held[index], None
                if window.first + number >= first:
                    assert sample is not None, "every sample is trained once"
                    yield sample
            coming += islice(read, following.size - len(coming))
            window, held = following, coming


def _part_at(place: int, total: int, parts: int) -> tuple[int, int, int]:
    """The number, start and stop of the part that holds `place`: part n is [n total / parts, (n + 1) total / parts).

    Bounds are rounded down; numbers and places go on beyond the first `total`.
    """
    number = ((place + 1) * parts - 1) // total
    return number, number * total // parts, (number + 1) * total // parts


def _part(track: range, number: int, count: int, row: int) -> range:
    """Part `number` of `count` equal ones of a track, counted from the beginning of the row at `row`."""
    start = track.start - row
    return range(start + number * len(track) // count, start + (number + 1) * len(track) // count)


@lru_cache(maxsize=2)
def _row(seed: int, epoch: int, shard_sizes: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The shards in the order of an epoch, and the place in the epoch's row where each begins."""
    shards = permutation(seed, epoch, len(shard_sizes))
    sizes = np.array(shard_sizes)[shards]
    return shards.tolist(), (np.cumsum(sizes) - sizes).tolist()
