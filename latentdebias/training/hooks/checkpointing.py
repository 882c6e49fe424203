"""The hook that saves checkpoints."""

import sys

from latentdebias import distributed
from latentdebias.training.checkpoints.checkpoint import Checkpoints
from latentdebias.training.trainer import TrainingOptions, TrainState


class Checkpointing:
    """Saves a checkpoint every `checkpoint_every` steps, in the background, and one at the last step or a stop."""

    def __init__(self, checkpoints: Checkpoints, options: TrainingOptions) -> None:
        self.checkpoints, self.options = checkpoints, options

    def __call__(self, state: TrainState) -> None:
        last = state.step == self.options.steps or bool(state.stopped_by)
        if state.stopped_by and distributed.rank() == 0:
            last_write = self.checkpoints.describe_last_write()
            print(f"\nwriting the checkpoint of step {state.step} ({last_write})", file=sys.stderr, flush=True)
        if state.step % self.options.checkpoint_every == 0 or last:
            self.checkpoints.save(state.step)
        if last:
            self.checkpoints.finish()
