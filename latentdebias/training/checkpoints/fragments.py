"""Which numbers of which weight this rank's fp32 partitions hold: what makes a checkpoint independent of the ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Fragment:
    """Numbers [start, start + numel) of flattened weight `name`, found at `offset` of partition number `partition`."""

    name: str
    shape: tuple[int, ...]
    start: int
    numel: int
    partition: int
    offset: int

    def share(self, rank: int, world_size: int) -> "Fragment":
        """The piece of this fragment that `rank` answers for where every rank holds all of it."""
        first, last = (self.numel * r // world_size for r in (rank, rank + 1))
        return replace(self, start=self.start + first, offset=self.offset + first, numel=last - first)


def whole_weights(trained: dict[str, nn.Parameter]) -> list[Fragment]:
    """Stage 0: every weight is a partition of its own."""
    return [
        Fragment(name, tuple(weight.shape), 0, weight.numel(), i, 0) for i, (name, weight) in enumerate(trained.items())
    ]


def of_flat_groups(optimizer: Any, trained: dict[str, nn.Parameter]) -> list[Fragment]:
    """Stages 1 and 2: a group of weights is flattened end to end, and cut into one partition a rank."""
    names = {weight: name for name, weight in trained.items()}
    fragments = []
    for i, group in enumerate(optimizer.bit16_groups):
        for weight in group:
            held = weight._hp_mapping
            if held is not None:
                start, at = held.lp_fragment_address.start, held.hp_fragment_address
                fragments.append(Fragment(names[weight], tuple(weight.shape), start, at.numel, i, at.start))
    return fragments


def of_partitioned_weights(optimizer: Any, trained: dict[str, nn.Parameter], rank: int) -> list[Fragment]:
    """Stage 3: each weight is cut into one piece a rank, the last one padded."""
    fragments = []
    for name, weight in trained.items():
        partition, offset, padded = optimizer.grad_position[optimizer.get_param_id(weight)]
        shape: Sequence[int] = weight.ds_shape  # type: ignore[attr-defined]
        start = min(rank * padded, prod(shape))
        numel = min(padded, prod(shape) - start)
        fragments.append(Fragment(name, tuple(shape), start, numel, partition, offset))
    return fragments
