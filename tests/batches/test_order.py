import tracemalloc

import numpy as np
import pytest

from latentdebias.batches.order import ORDERS, BlockShuffle, FullShuffle
from latentdebias.batches.plan import plan_batches
from latentdebias.errors import UserError

BOTH = [FullShuffle(), BlockShuffle(block=700, blocks_in_window=4)]


def uneven_shards(total, seed=0):
    """Sizes from 1 to 1,999 that add up to `total`."""
    cuts = np.cumsum(np.random.default_rng(seed).integers(1, 2000, total // 1000 * 2))
    return np.diff(np.concatenate([[0], cuts[cuts < total], [total]]))


@pytest.mark.parametrize("order", BOTH, ids=["shuffle", "blocks"])
def test_a_thousand_ranks_and_then_fewer_see_every_sample_once_an_epoch_in_one_order(order):
    """1,024 ranks, 640 from the middle of the second epoch on, over shards of uneven sizes; three epochs."""
    total, batch_size = 61_111, 5120
    sizes = uneven_shards(total)
    shard_of, first_of = np.repeat(np.arange(len(sizes)), sizes), np.cumsum(sizes) - sizes
    steps, change = -(-3 * total // batch_size), 3 * total // batch_size // 2
    seen = []
    for step in range(steps):
        world_size = 1024 if step < change else 640
        plans = [plan_batches(7, batch_size, None, rank, world_size) for rank in range(world_size)]
        indices = order.indices(7, np.concatenate([plan.positions(step) for plan in plans]), total)
        shards = shard_of[indices]
        seen.append(np.stack([shards, indices - first_of[shards]], axis=1))
    visits = np.concatenate(seen)[: 3 * total]
    assert len(set(sizes.tolist())) > 20
    assert (visits[:, 1] < sizes[visits[:, 0]]).all()
    flat = first_of[visits[:, 0]] + visits[:, 1]
    for epoch in np.split(flat, 3):
        assert np.array_equal(np.bincount(epoch, minlength=total), np.ones(total))
    assert np.array_equal(flat, order.indices(7, np.arange(3 * total), total))


@pytest.mark.parametrize("count", [1, 5, 699, 700, 701, 2800, 2801, 10_000])
@pytest.mark.parametrize("order", BOTH, ids=["shuffle", "blocks"])
def test_an_epoch_is_a_permutation_for_any_count(order, count):
    indices = order.indices(3, np.arange(2 * count, 3 * count), count)
    assert np.array_equal(np.sort(indices), np.arange(count))


@pytest.mark.parametrize("order", BOTH, ids=["shuffle", "blocks"])
def test_epochs_and_seeds_differ_and_a_position_alone_decides(order):
    positions = np.arange(20_000)
    indices = order.indices(3, positions, 10_000)
    assert not np.array_equal(indices[:10_000], indices[10_000:])
    assert not np.array_equal(indices, order.indices(4, positions, 10_000))
    some = np.random.default_rng(0).permutation(positions)[:50]
    assert np.array_equal(order.indices(3, some, 10_000), indices[some])


def test_a_window_of_the_block_order_stays_within_its_blocks_and_mixes_them():
    order = BlockShuffle(block=100, blocks_in_window=4)
    indices = order.indices(0, np.arange(10_000), 10_000)
    for window in range(25):
        blocks = indices[window * 400 : window * 400 + 400] // 100
        assert set(blocks.tolist()) == set(order.blocks_of(0, 0, 10_000, window).tolist())
        assert (np.diff(blocks) == 0).mean() < 0.4
    assert (np.diff(order.blocks_of(0, 0, 10_000, 0)) != 1).any()


def test_each_window_is_shuffled_in_its_own_way():
    order = BlockShuffle(block=100, blocks_in_window=1)
    within_block = order.indices(0, np.arange(1000), 1000).reshape(10, 100) % 100
    assert len({tuple(row) for row in within_block.tolist()}) == 10


def test_the_block_order_of_a_billion_samples_takes_little_memory():
    order, count = BlockShuffle(), 1_000_000_000
    tracemalloc.start()
    indices = order.indices(1, np.arange(777_000_000, 777_000_256), count)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6
    assert len(set(indices.tolist())) == 256
    assert indices.max() < count


def test_orders_are_named_in_the_config():
    assert ORDERS.build("shuffle") == FullShuffle()
    assert ORDERS.build({"name": "blocks", "block": 64}) == BlockShuffle(block=64)
    with pytest.raises(UserError, match="Did you mean 'blocks'"):
        ORDERS.build("block")
    with pytest.raises(UserError, match="Bad value 0 for 'block'"):
        ORDERS.build({"name": "blocks", "block": 0})
