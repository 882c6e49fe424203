"""The order of the streaming reader as numbers alone: what is read, and what is trained, by every rank."""

from collections import Counter
from itertools import chain, islice, takewhile

import numpy as np
import pytest
from streams import numbers_read, numbers_trained

from latentdebias.batches.lanes import Lane

SIZES = (5, 1, 7, 3, 2, 3)
TOTAL = sum(SIZES)


def lanes(world_size, sizes=SIZES, seed=0, shuffle_buffer=6, shards_at_once=3):
    return [Lane(sizes, shuffle_buffer, shards_at_once, seed, rank, world_size) for rank in range(world_size)]


def samples_in(lane, epochs):
    """How many samples the rank trains in its first epochs."""
    return sum(window.size for window in takewhile(lambda window: window.epoch < epochs, lane.windows(0)))


@pytest.mark.parametrize("shards_at_once", [1, 3, 16])
@pytest.mark.parametrize("shuffle_buffer", [1, 6, 1000])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7, TOTAL, 30])
def test_every_sample_is_trained_once_an_epoch_by_one_of_the_ranks(world_size, shuffle_buffer, shards_at_once):
    """The ranks may also be more than the samples, and pieces and windows of all sizes."""
    ranks = lanes(world_size, shuffle_buffer=shuffle_buffer, shards_at_once=shards_at_once)
    begins = [[samples_in(lane, epoch) for epoch in range(5)] for lane in ranks]
    orders = [numbers_trained(lane, begin[-1]) for lane, begin in zip(ranks, begins, strict=True)]
    for epoch in range(4):
        seen = [order[begin[epoch] : begin[epoch + 1]] for order, begin in zip(orders, begins, strict=True)]
        assert Counter(chain.from_iterable(seen)) == Counter(range(TOTAL))
        assert max(map(len, seen)) - min(map(len, seen)) <= 1
    assert all(max(each) - min(each) <= 1 for each in zip(*begins, strict=True))


@pytest.mark.parametrize("shards_at_once", [1, 3])
@pytest.mark.parametrize("shuffle_buffer", [1, 4, 1000])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_order_goes_on_from_any_sample(world_size, shuffle_buffer, shards_at_once):
    for lane in lanes(world_size, shuffle_buffer=shuffle_buffer, shards_at_once=shards_at_once):
        whole = numbers_trained(lane, 3 * TOTAL)
        for first in range(2 * TOTAL):
            assert numbers_trained(lane, TOTAL, first) == whole[first : first + TOTAL]


def test_no_more_than_a_window_and_a_sample_a_track_is_held():
    (lane,) = lanes(1, sizes=(100,) * 20, shuffle_buffer=64, shards_at_once=8)
    taken = 0

    def counted():
        nonlocal taken
        for number in numbers_read(lane, lane.windows(333)):
            taken += 1
            yield number

    for given, _ in enumerate(islice(lane.trained(333, counted()), 5000)):
        # The window that holds sample 333 is read whole.
        assert taken - given <= 2 * (64 + 8)
        if given > 128:
            assert taken - given <= 64 + 8 + 64


def test_windows_mix_the_shards_that_are_read_side_by_side():
    (lane,) = lanes(1, sizes=(100,) * 20, shuffle_buffer=64, shards_at_once=8)
    for window in islice(lane.windows(0), 60):
        shards = [number // 100 for number in islice(numbers_read(lane, [window]), window.size)]
        assert len(set(shards)) >= 8
    first = numbers_trained(lane, 64)
    assert len({number // 100 for number in first[:32]}) >= 7


def test_seeds_epochs_and_ranks_have_orders_of_their_own():
    (lane,), (other,) = lanes(1), lanes(1, seed=1)
    order = numbers_trained(lane, 2 * TOTAL)
    assert order[:TOTAL] != order[TOTAL:]
    assert order != numbers_trained(other, 2 * TOTAL)
    assert order == numbers_trained(lane, 2 * TOTAL)
    (one_shard, second) = lanes(2, sizes=(400,), shuffle_buffer=200)
    assert [n % 200 for n in numbers_trained(one_shard, 200)] != [n % 200 for n in numbers_trained(second, 200)]


def test_a_thousand_ranks_share_every_epoch():
    """1,024 ranks over shards of 1 to 1,999 samples: two epochs, each sample once in each."""
    sizes = tuple(np.random.default_rng(0).integers(1, 2000, 31).tolist())
    seen = Counter()
    for lane in lanes(1024, sizes, seed=7, shuffle_buffer=16):
        begins = [samples_in(lane, epoch) for epoch in range(3)]
        order = numbers_trained(lane, begins[-1])
        for epoch in range(2):
            seen.update((epoch, number) for number in order[begins[epoch] : begins[epoch + 1]])
    assert len(seen) == 2 * sum(sizes)
    assert set(seen.values()) == {1}
