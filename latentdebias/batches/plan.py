"""Deals the rows of the global batch to ranks and micro-batches."""

from dataclasses import dataclass

import numpy as np

from latentdebias.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """The share of the global batch that one rank trains, micro-batch by micro-batch.

    Micro-steps count the micro-batches of a run from 0: micro-step m is micro-batch m % accumulation of step
    m // accumulation. `batch_size` is the global batch, `micro_batch_size` what one rank runs in one backward.
    """

    seed: int
    batch_size: int
    micro_batch_size: int
    rank: int
    world_size: int

    @property
    def accumulation(self) -> int:
        """The number of micro-batches that one rank runs for one step."""
        return self.batch_size // (self.micro_batch_size * self.world_size)

    def rows(self, micro_step: int) -> np.ndarray:
        """The rows of the global batch (int64 `(micro_batch_size,)`) that this rank trains in `micro_step`."""
        share = self.micro_batch_size * self.world_size
        start = (micro_step % self.accumulation) * share + self.rank * self.micro_batch_size
        return np.arange(start, start + self.micro_batch_size)

    def positions(self, micro_step: int) -> np.ndarray:
        """The run's sample positions, step * batch_size + row (int64 `(micro_batch_size,)`), that this rank trains."""
        return micro_step // self.accumulation * self.batch_size + self.rows(micro_step)

    def micro_steps(self, first_step: int, last_step: int) -> range:
        """The micro-steps of steps [first_step, last_step)."""
        return range(first_step * self.accumulation, last_step * self.accumulation)


def plan_batches(seed: int, batch_size: int, micro_batch_size: int | None, rank: int, world_size: int) -> BatchPlan:
    """The plan of one rank; raises `UserError` where the global batch cannot be dealt evenly.

    Without a `micro_batch_size` a rank's whole share of the batch is one micro-batch.
    """
    unit = (micro_batch_size or 1) * world_size
    if batch_size % unit:
        raise UserError(
            f"training.batch_size {batch_size} (global) is not a multiple of {unit}, which is {world_size} ranks times "
            f"training.micro_batch_size {micro_batch_size or 1}; every rank must run the same number of micro-batches. "
            f"Set --set training.batch_size={-(-batch_size // unit) * unit}"
        )
    return BatchPlan(seed, batch_size, micro_batch_size or batch_size // world_size, rank, world_size)
