"""The loss of a step, and of the steps since the last report by bin of t; summed on the device, read when reported."""

import torch
from torch import Tensor

BINS = 10


class LossMeter:
    """Sums per-sample losses without a host sync; `report` reduces them over all ranks."""

    def __init__(self, device: torch.device) -> None:
        self._step = torch.zeros(2, dtype=torch.float64, device=device)
        self._bins = torch.zeros(2, BINS, dtype=torch.float64, device=device)

    def add(self, losses: Tensor, unit_t: Tensor) -> None:
        """Count losses `(B,)` at schedule positions `(B,)` in [0, 1]; those that are not finite are left out."""
        losses = losses.detach().double()
        finite = losses.isfinite()
        counted = torch.stack([losses.where(finite, 0), finite.double()])
        self._step += counted.sum(dim=1)
        self._bins.index_add_(1, (unit_t * BINS).long().clamp(0, BINS - 1), counted)

    def next_step(self) -> None:
        """Start the sum of a new step; the bins go on until they are reported."""
        self._step.zero_()

    def report(self) -> tuple[float | None, list[float | None]]:
        """Mean loss of this step's global batch, and by bin of t since the last report (None: no finite loss)."""
        everything = torch.cat([self._step[:, None], self._bins], dim=1)
        torch.distributed.all_reduce(everything)
        self._bins.zero_()
        sums, counts = everything.tolist()
        means = [total / count if count else None for total, count in zip(sums, counts, strict=True)]
        return means[0], means[1:]
