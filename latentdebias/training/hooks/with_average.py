"""The hook that hands whole averaged weights to whatever uses them: a file, a grid of pictures, an evaluation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdebias import distributed
from latentdebias.training.checkpoints.run_state import RunState
from latentdebias.training.trainer import TrainState

# Called with the step and the whole state dict, fp32 on the CPU.
UseWeights = Callable[[int, dict[str, Tensor]], None]


@dataclass(frozen=True)
class WithAverage:
    """Gathers the average `name` every `every` steps (0: never), and calls `use` with it on rank 0; others wait."""

    state: RunState
    name: str
    every: int
    use: UseWeights | None
    """None where this rank is not 0."""

    def __call__(self, state: TrainState) -> None:
        if self.every and state.step % self.every == 0:
            self.now(state.step)

    def now(self, step: int) -> None:
        """Gather and use the average at any step; every rank must call it."""
        weights = self.state.gathered(self.name)
        if distributed.rank() == 0 and self.use is not None:
            self.use(step, weights)
        torch.distributed.barrier()
