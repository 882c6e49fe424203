"""How each ZeRO stage lays out the fp32 weights over the ranks: which numbers of which weight a rank updates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

from torch import Tensor, nn

from latentdebias import distributed

# `read(name, numel)` gives a whole weight, flattened, fp32.
ReadWeight = Callable[[str, int], Tensor]


@dataclass(frozen=True)
class Fragment:
    """Numbers [start, start + numel) of flattened weight `name`, found at `offset` of partition number `partition`."""

    name: str
    shape: tuple[int, ...]
    start: int
    numel: int
    partition: int
    offset: int

    def piece_of(self, rank: int, world_size: int) -> "Fragment":
        """The piece of this fragment that `rank` writes to a checkpoint where every rank holds all of the fragment."""
        first, last = (self.numel * r // world_size for r in (rank, rank + 1))
        return replace(self, start=self.start + first, offset=self.offset + first, numel=last - first)


class Layout(Protocol):
    """Where this rank's share of the fp32 weights is."""

    @property
    def partitions(self) -> list[Tensor]:
        """This rank's fp32 numbers, which the optimizer updates in place."""

    @property
    def optimizer_keys(self) -> list[Tensor]:
        """For each partition, the tensor under which the optimizer keeps its state."""

    def fragments(self) -> list[Fragment]:
        """Which numbers of which weights the partitions hold."""

    def update_model(self, read: ReadWeight) -> None:
        """After a write to the partitions: copy them to the weights that the forward pass computes with."""


class WholeWeights:
    """Stage 0: every weight is a partition of its own, on every rank."""

    def __init__(self, trained: Mapping[str, nn.Parameter]) -> None:
        self._trained = trained
        self.partitions = [weight.data for weight in trained.values()]
        self.optimizer_keys: list[Tensor] = list(trained.values())

    def fragments(self) -> list[Fragment]:
        return [
            Fragment(name, tuple(weight.shape), 0, weight.numel(), partition, 0)
            for partition, (name, weight) in enumerate(self._trained.items())
        ]

    def update_model(self, read: ReadWeight) -> None:
        """Nothing: the partitions are the weights."""


class FlatGroups:
    """Stages 1 and 2: a parameter group is flattened end to end, and cut into one partition a rank."""

    def __init__(self, optimizer: Any, trained: Mapping[str, nn.Parameter]) -> None:
        self._optimizer, self._trained = optimizer, trained
        self.partitions: list[Tensor] = list(optimizer.single_partition_of_fp32_groups)
        self.optimizer_keys = self.partitions

    def fragments(self) -> list[Fragment]:
        names = {weight: name for name, weight in self._trained.items()}
        fragments = []
        for partition, group in enumerate(self._optimizer.bit16_groups):
            for weight in group:
                # None where all of the weight is in partitions of other ranks.
                mapping = weight._hp_mapping
                if mapping is not None:
                    start, at = mapping.lp_fragment_address.start, mapping.hp_fragment_address
                    shape = tuple(weight.shape)
                    fragments.append(Fragment(names[weight], shape, start, at.numel, partition, at.start))
        return fragments

    def update_model(self, read: ReadWeight) -> None:
        for name, weight in self._trained.items():
            weight.view(-1).copy_(read(name, weight.numel()))


class PartitionedWeights:
    """Stage 3: each weight is cut into one piece a rank, the last one padded."""

    def __init__(self, optimizer: Any, trained: Mapping[str, nn.Parameter]) -> None:
        self._optimizer, self._trained = optimizer, trained
        self.partitions: list[Tensor] = list(optimizer.fp32_partitioned_groups_flat)
        self.optimizer_keys = self.partitions

    def fragments(self) -> list[Fragment]:
        rank, fragments = distributed.rank(), []
        for name, weight in self._trained.items():
            partition, offset, padded = self._optimizer.grad_position[self._optimizer.get_param_id(weight)]
            shape = tuple(weight.ds_shape)  # type: ignore[attr-defined]
            start = min(rank * padded, prod(shape))
            numel = min(padded, prod(shape) - start)
            fragments.append(Fragment(name, shape, start, numel, partition, offset))
        return fragments

    def update_model(self, read: ReadWeight) -> None:
        # Small weights stay gathered between steps; they are released, so that the next use gathers what was written.
        if kept := self._optimizer.persistent_parameters:
            kept[0].partition(kept)
        for group in range(len(self.partitions)):
            self._optimizer._reassign_or_swap_out_partitioned_parameters(group)
        self._optimizer.checkpoint_event_epilogue()


def layout_of(zero_stage: int, optimizer: Any, trained: Mapping[str, nn.Parameter]) -> Layout:
    """The layout of DeepSpeed's `optimizer` at `zero_stage`; `trained` are the weights that it updates, by name."""
    if zero_stage == 0:
        return WholeWeights(trained)
    return PartitionedWeights(optimizer, trained) if zero_stage == 3 else FlatGroups(optimizer, trained)
