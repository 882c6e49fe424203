"""The order in which the epochs visit the samples: a pure function of (seed, position), the same on every rank."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydantic import PositiveInt

from latentdebias.registry import Registry


class SampleOrder(ABC):
    """Position in the run -> sample number; N consecutive positions from a multiple of N visit each of N samples."""

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
    """One permutation of all samples; memory: 8 bytes a sample for each of the two epochs that are kept."""

    def of_epoch(self, seed: int, epoch: int, within: np.ndarray, count: int) -> np.ndarray:
        return permutation(seed, epoch, count)[within]


@ORDERS.register("blocks")
@dataclass(frozen=True)
class BlockShuffle(SampleOrder):
    """Blocks of consecutive samples permuted, then the samples of every `blocks_in_window` successive blocks.

    While a window lasts, only its blocks are read: of slow storage, a few shards at a time. Memory: 16 bytes a block
    for each of two epochs, and 8 bytes a sample of the windows in use.
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
    """A permutation of `count` things that belongs to an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


@lru_cache(maxsize=2)
def _permuted_blocks(seed: int, epoch: int, count: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks in the order of the epoch, and the place in the epoch where each begins."""
    blocks = np.random.default_rng((seed, epoch)).permutation(-(-count // block))
    sizes = np.minimum(block, count - blocks * block)
    return blocks, np.cumsum(sizes) - sizes


@lru_cache(maxsize=4)
def _window(order: BlockShuffle, seed: int, epoch: int, count: int, window: int) -> np.ndarray:
    first_samples = order.blocks_of(seed, epoch, count, window) * order.block
    samples = np.concatenate([np.arange(first, min(first + order.block, count)) for first in first_samples.tolist()])
    # 0 belongs to the blocks' own permutation: numpy reads (seed, epoch) as (seed, epoch, 0).
    return np.random.default_rng((seed, epoch, window + 1)).permutation(samples)
