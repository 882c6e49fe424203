"""Hands the losses of a step, of all ranks, to the timestep sampler that learns from them."""

import torch
from torch import Tensor

from latentdebias.diffusion.timesteps.loss_aware import LossHistory


class LossFeedback:
    """Collects the losses of a step and adds those of all ranks to `history`, in the order of the global batch.

    That order makes the history the same on every rank, and for any number of ranks and micro-batches.
    """

    def __init__(self, history: LossHistory) -> None:
        self.history = history
        self._rows: list[Tensor] = []

    def add(self, row: Tensor, t: Tensor, losses: Tensor) -> None:
        """Collect the losses `(B,)` at timesteps t `(B,)` of the samples in the rows `row` `(B,)` of the batch."""
        self._rows.append(torch.stack([row.double(), t.double(), losses.detach().double()]))

    def end_step(self) -> None:
        """Add the losses of the step to the history; every rank must call it."""
        mine = torch.cat(self._rows, dim=1)
        self._rows.clear()
        everyone = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(everyone, mine)
        row, t, losses = torch.cat(everyone, dim=1)
        order = row.argsort()
        self.history.add(t[order].long(), losses[order])
