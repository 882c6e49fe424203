"""The hook that solves the weights of weighting `pareto` while training."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentdebias.batches.batch import Batch
from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.pareto.bins import Latents, bin_gradient, inner_products, timesteps_in
from latentdebias.diffusion.pareto.solvers import SOLVERS, regularized
from latentdebias.diffusion.weightings.solved import Pareto
from latentdebias.process_groups import from_first, ranks
from latentdebias.training.checkpoints.run_state import RunState
from latentdebias.training.monitor.run_log import RunLog
from latentdebias.training.trainer import TrainState

SAVED = "pareto_weights"
CHUNK = 64


def share_weights(state: RunState, diffusion: Diffusion) -> None:
    """Give the solved weights a place in the checkpoints of a run with weighting `pareto`; others have none."""
    if isinstance(diffusion.weighting, Pareto):
        # Not a number until they are solved, or restored.
        state.shared[SAVED] = torch.full((diffusion.weighting.bins,), torch.nan, dtype=torch.float64)


@dataclass(frozen=True)
class _Network:
    backbone: nn.Module
    diffusion: Diffusion


class ParetoWeights:
    """Solves the weights on rank 0 every `every` updates, gives them to all ranks, and keeps them in the checkpoint.

    They come from the whole weights of the network and the whole global batch of the next step, so that they do not
    depend on the number of ranks. The log has them, and the seconds that they took. `batch_at` gives that batch on the
    device by the step's number; `open_network` gives a second copy of the network.
    """

    def __init__(
        self,
        state: RunState,
        diffusion: Diffusion,
        batch_at: Callable[[int], Batch],
        open_network: Callable[[], nn.Module],
        log: RunLog | None,
    ) -> None:
        assert isinstance(diffusion.weighting, Pareto), "the hook is of weighting pareto alone"
        self.weighting: Pareto = diffusion.weighting
        self.state, self.diffusion, self.log = state, diffusion, log
        self.batch_at, self.open_network = batch_at, open_network

    def start_at(self, step: int) -> None:
        """Use the weights of the checkpoint of `step`; solve them where it has none. Every rank must call it."""
        if self.state.shared[SAVED].isnan().any():
            self.solve(step)
        self.diffusion.set_bin_weights(self.state.shared[SAVED])

    def __call__(self, state: TrainState) -> None:
        if state.step % self.weighting.every == 0:
            self.solve(state.step)

    def solve(self, step: int) -> None:
        """Solve the weights from the network as it is after `step` updates; every rank must call it."""
        start = time.perf_counter()
        weights = self.state.gathered("none")
        solved = from_first(self._solved(step, weights) if ranks()[0] == 0 else None)
        self.state.shared[SAVED].copy_(solved)
        self.diffusion.set_bin_weights(self.state.shared[SAVED])
        if self.log is not None:
            self.log.write(step, {"pareto_weights": solved.tolist(), "pareto_seconds": time.perf_counter() - start})

    def _solved(self, step: int, weights: dict[str, Tensor]) -> Tensor:
        """The solved weights (bins,) fp64, of mean 1."""
        weighting, batch = self.weighting, self.batch_at(step)
        network = _Network(self.open_network(), self.diffusion)
        network.backbone.load_state_dict(weights)
        latents = Latents(batch.latents, batch.eps, batch.labels)
        gradients = []
        for number in range(weighting.bins):
            t = timesteps_in(self.diffusion, number, weighting.bins, len(latents))
            # One gradient of all bins is as large as the network: they wait in the host's memory.
            gradients.append(bin_gradient(network, latents, t, CHUNK).cpu())
        gram = inner_products(gradients).cpu()
        if not torch.isfinite(gram).all():  # the update that made them so is skipped or stopped elsewhere
            return self.state.shared[SAVED].nan_to_num(nan=1.0)
        return weighting.bins * SOLVERS[weighting.solver](regularized(gram, weighting.regularization))
