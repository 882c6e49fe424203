"""The hook that hands whole averaged weights to whatever uses them: a file, a grid of pictures, an evaluation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.process_groups import ranks, wait_for_all
from latentdebias.training.checkpoints.run_state import RunState
from latentdebias.training.trainer import TrainState

# Called on every rank with the step and the whole state dict, fp32 on the CPU, which is empty on every rank but 0.
UseWeights = Callable[[int, dict[str, Tensor]], None]


@dataclass(frozen=True)
class WithAverage:
    """Gathers the average `name` every `every` steps (0: never), and calls `use` with it on every rank."""

    state: RunState
    name: str
    every: int
    use: UseWeights

    def __call__(self, state: TrainState) -> None:
        if self.every and state.step % self.every == 0:
            self.now(state.step)

    def now(self, step: int) -> None:
        """Gather and use the average at any step; every rank must call it, and waits until all are done."""
        self.use(step, self.state.gathered(self.name))
        wait_for_all()


def on_first_rank(use: UseWeights) -> UseWeights:
    """A function that calls `use` on rank 0, and does nothing elsewhere."""

    def use_there(step: int, weights: dict[str, Tensor]) -> None:
        if ranks()[0] == 0:
            use(step, weights)

    return use_there


def load_everywhere(sampler: ImageSampler, weights: dict[str, Tensor]) -> None:
    """Put rank 0's whole state dict `weights` into the network of `sampler` on every rank."""
    rank, world_size = ranks()
    if rank == 0:
        sampler.load_weights(weights)
    if world_size > 1:
        for weight in sampler.model.network.backbone.state_dict().values():
            torch.distributed.broadcast(weight, src=0)
