"""Exponential moving average of the weights, sharded as the optimizer is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class PartitionedEMA:
    """ema <- decay ema + (1 - decay) weights, over this rank's own fp32 partitions; starts at the initial weights."""

    def __init__(self, partitions: list[Tensor], decay: float) -> None:
        self.decay = decay
        self.partitions = partitions
        self.average = [partition.detach().clone() for partition in partitions]
        self.averages = {f"ema-{decay}": self.average}

    @torch.no_grad()
    def update(self) -> None:
        """Follow one optimizer step."""
        torch._foreach_lerp_(self.average, self.partitions, 1 - self.decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within the block the partitions hold the average; afterwards the weights again, bit for bit."""
        weights = [partition.detach().clone() for partition in self.partitions]
        self._write(self.average)
        try:
            yield
        finally:
            self._write(weights)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self.partitions, values)
