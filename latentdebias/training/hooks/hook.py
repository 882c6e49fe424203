"""The contract of a training hook, and what a hook may use of its run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.process_groups import wait_for_all
from latentdebias.registry import Registry
from latentdebias.shards.format import Manifest
from latentdebias.training.checkpoints.run_state import RunState
from latentdebias.training.monitor.run_log import RunLog
from latentdebias.training.trainer import Hook, TrainState


@dataclass(frozen=True)
class HookContext:
    """What a hook may use of its run; the same on every rank, except for `log`."""

    run_dir: Path
    rank: int
    diffusion: Diffusion
    manifest: Manifest
    """What the latent set says of itself: classes, resolution, autoencoder."""
    average: str
    """The average of the weights that the run draws with and exports."""
    state: RunState
    """The weights, the optimizer's state and the averages, as the ranks share them."""
    log: RunLog | None
    """Where numbers and pictures are logged: on rank 0; None elsewhere."""
    open_image_sampler: Callable[[], ImageSampler]
    """Gives a sampler with a second copy of the network, whose weights are the caller's to load."""

    def gathered(self, average: str) -> dict[str, Tensor]:
        """The state dict of an average (`none`: the weights), whole, fp32 on the CPU, on rank 0; empty elsewhere.

        Each weight has the shape that the network gives it.

        Every rank must call it at the same step: the weights are gathered from all of them.
        """
        return self.state.gathered(average)


class HookSpec(Protocol):
    """A hook's options: a frozen dataclass, registered with `@HOOKS.register(NAME)` and named under `hooks:`."""

    def build(self, run: HookContext) -> Hook:
        """The function that is called with the `TrainState` on every rank after every update.

        It runs inside the training: what one rank waits for in it, all ranks must do. After it, all ranks wait for all.
        At a step at which `state.stopped_by` is set the run is about to end and has seconds left for its checkpoint.
        """
        ...


def together(hooks: Sequence[Hook]) -> Hook:
    """A hook that calls `hooks`, and ends on every rank once it has on all, however long one of them takes in it.

    Without the wait, which is on the CPU, the others would wait for that rank in the next step's collectives, which
    give up after `training.hang_timeout`.
    """

    def run(state: TrainState) -> None:
        for hook in hooks:
            hook(state)
        wait_for_all()

    return run


HOOKS: Registry[HookSpec] = Registry("hook")
