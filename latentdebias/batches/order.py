"""Orders of the indexed reader: which sample is at a position of the run, a pure function of (seed, position)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydantic import PositiveInt

from latentdebias.registry import Registry


class SampleOrder(ABC):
    """Says which sample is trained at each position of a run over N samples, the same on every rank.

    Epoch e is positions [e N, (e + 1) N), and visits each sample once.
    """

    def indices(self, seed: int, positions: np.ndarray, count: int) -> np.ndarray:
        """The sample numbers (int64 `(B,)`) of `positions` (int64 `(B,)`) in a run over `count` samples."""
        epochs, within = np.divmod(positions, count)
        indices = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            indices[here] = self.of_epoch(seed, epoch, within[here], count)
        return indices

    @abstractmethod
    def of_epoch(self, seed: int, epoch: int, within: np.ndarray, count: int) -> np.ndarray:
        """The sample numbers at places `within` (int64 `(B,)`, below `count`) of one epoch."""


ORDERS: Registry[SampleOrder] = Registry("data.order")


@ORDERS.register("shuffle")
@dataclass(frozen=True)
class FullShuffle(SampleOrder):
    """One random permutation of all samples for each epoch.

    Memory of each process: 8 bytes a sample for each of the two epochs that are kept.
    """

    def of_epoch(self, seed: int, epoch: int, within: np.ndarray, count: int) -> np.ndarray:
        return permutation(seed, epoch, count)[within]


@ORDERS.register("blocks")
@dataclass(frozen=True)
class BlockShuffle(SampleOrder):
    """Blocks of `block` consecutive samples in random order, and the samples of `blocks_in_window` of them mixed.

    The blocks of the set are permuted; each group of `blocks_in_window` successive blocks is a window, and the samples
    of a window are permuted. While a window is trained, only its blocks are read, so slow storage is read a few shards
    at a time. Memory of each process: 16 bytes a block for each of two epochs, and 8 bytes a sample of the windows in
    use.
    """

    block: PositiveInt = 4096
    blocks_in_window: PositiveInt = 16

    def of_epoch(self, seed: int, epoch: int, within: np.ndarray, count: int) -> np.ndarray:
        starts = _permuted_blocks(seed, epoch, count, self.block)[1]
        window_starts = starts[:: self.blocks_in_window]
        windows = np.searchsorted(window_starts, within, side="right") - 1
        indices = np.empty(len(within), np.int64)
        for window in np.unique(windows).tolist():
            here = windows == window
            order = _window(self, seed, epoch, count, window)
            indices[here] = order[within[here] - window_starts[window]]
        return indices

    def blocks_of(self, seed: int, epoch: int, count: int, window: int) -> np.ndarray:
        """The numbers of the blocks that make up one window."""
        first = window * self.blocks_in_window
        return _permuted_blocks(seed, epoch, count, self.block)[0][first : first + self.blocks_in_window]


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The random permutation of the numbers below `count` that belongs to an epoch, int64 `(count,)`."""
    return np.random.default_rng((seed, epoch)).permutation(count)


@lru_cache(maxsize=2)
def _permuted_blocks(seed: int, epoch: int, count: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks in the order of an epoch, and the place in the epoch where each begins."""
    blocks = np.random.default_rng((seed, epoch)).permutation(-(-count // block))
    sizes = np.minimum(block, count - blocks * block)
    return blocks, np.cumsum(sizes) - sizes


@lru_cache(maxsize=4)
def _window(order: BlockShuffle, seed: int, epoch: int, count: int, window: int) -> np.ndarray:
    first_samples = order.blocks_of(seed, epoch, count, window) * order.block
    samples = np.concatenate([np.arange(first, min(first + order.block, count)) for first in first_samples.tolist()])
    # Windows count from 1, since 0 would give the blocks' permutation: numpy reads (seed, epoch) as (seed, epoch, 0).
    return np.random.default_rng((seed, epoch, window + 1)).permutation(samples)
