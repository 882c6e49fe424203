"""Random halves of a set of images, by which the uncertainty of a score is told."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

MAX_BLOCKS = 64


@dataclass(frozen=True)
class Halves:
    """Random halves of N images, each a choice of half the blocks into which the images are dealt at random.

    The mean over a random half of the blocks varies about the mean of all as the bootstrap's does, and as the mean of
    all about the truth: (1 - 1/2) / (1/2) = 1 (McCarthy 1969, pseudo-replication by half samples). Unlike the
    bootstrap a half holds no image twice, which nearest-neighbour scores would not survive, and sums over blocks serve
    all halves. A standard error from 64 blocks is itself 9% uncertain.

    `blocks` are the rows of each block, `chosen` (B, number of blocks) is True for the blocks of each half.
    """

    blocks: list[Tensor]
    chosen: Tensor

    @classmethod
    def of(cls, count: int, number: int, seed: int) -> "Halves":
        """`number` halves of `count` images, a function of the arguments alone."""
        generator = torch.Generator().manual_seed(seed)
        num_blocks = min(MAX_BLOCKS, count // 2 * 2)
        blocks = list(torch.randperm(count, generator=generator).tensor_split(num_blocks))
        order = torch.rand(number, num_blocks, generator=generator).argsort(dim=1)
        return cls(blocks, order < num_blocks // 2)

    def first(self, number: int) -> "Halves":
        return replace(self, chosen=self.chosen[:number])

    def rows(self, chosen: Tensor) -> Tensor:
        """The images (n,) of the half whose blocks are `chosen`, in their order."""
        return torch.cat([block for block, taken in zip(self.blocks, chosen, strict=True) if taken]).sort().values

    def block_of_row(self) -> Tensor:
        """The number of the block (N,) that each image is in."""
        numbers = torch.empty(sum(len(block) for block in self.blocks), dtype=torch.long)
        for number, block in enumerate(self.blocks):
            numbers[block] = number
        return numbers
