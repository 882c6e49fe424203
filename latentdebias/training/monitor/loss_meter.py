"""The loss of a step, and losses since the last report by bin of t; summed on the device, read when reported."""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentdebias.diffusion.process import LossTerms

BINS = 10


@dataclass(frozen=True)
class LossReport:
    """Mean losses over all ranks; None where there was no finite one.

    `loss` is that of the last step. The lists have one number for each tenth of the schedule, over the steps since the
    last report: the weighted loss that is trained, the squared error of x0 without a weight, the latter's standard
    error, and u of weighting edm2_uncertainty.
    """

    loss: float | None
    loss_by_t: list[float | None]
    x0_loss_by_t: list[float | None]
    x0_loss_error_by_t: list[float | None]
    uncertainty_by_t: list[float | None]


class LossMeter:
    """Sums per-sample losses without a host sync; `report` reduces them over all ranks."""

    def __init__(self, device: torch.device) -> None:
        self._step = torch.zeros(2, dtype=torch.float64, device=device)
        # Losses, errors of x0 and uncertainties, each as sum and count, then the squared errors of x0.
        self._bins = torch.zeros(7, BINS, dtype=torch.float64, device=device)

    def add(self, terms: LossTerms, unit_t: Tensor) -> None:
        """Count losses `(B,)` at schedule positions `(B,)` in [0, 1]; those that are not finite are left out."""
        losses, x0_errors = _sum_and_count(terms.total), _sum_and_count(terms.x0_error)
        self._step += losses.sum(dim=1)
        nothing = torch.zeros_like(losses)
        uncertainties = nothing if terms.uncertainty is None else _sum_and_count(terms.uncertainty)
        rows = torch.cat([losses, x0_errors, uncertainties, x0_errors[:1] ** 2])
        self._bins.index_add_(1, (unit_t * BINS).long().clamp(0, BINS - 1), rows)

    def next_step(self) -> None:
        """Start the sum of a new step; the bins go on until they are reported."""
        self._step.zero_()

    def report(self) -> LossReport:
        """The loss of this step's global batch, and the losses by bin of t since the last report."""
        everything = torch.cat([self._step, self._bins.flatten()])
        torch.distributed.all_reduce(everything)
        self._bins.zero_()
        step, bins = everything[:2].tolist(), everything[2:].view_as(self._bins).tolist()
        losses, counts, x0_errors, x0_counts, uncertainties, with_uncertainty, x0_squares = bins
        return LossReport(
            _mean(*step),
            [_mean(*each) for each in zip(losses, counts, strict=True)],
            [_mean(*each) for each in zip(x0_errors, x0_counts, strict=True)],
            [_standard_error(*each) for each in zip(x0_errors, x0_counts, x0_squares, strict=True)],
            [_mean(*each) for each in zip(uncertainties, with_uncertainty, strict=True)],
        )


def _sum_and_count(losses: Tensor) -> Tensor:
    """Each loss `(B,)` and 1, or 0 and 0 where it is not finite: `(2, B)`, fp64."""
    losses = losses.detach().double()
    finite = losses.isfinite()
    return torch.stack([losses.where(finite, 0), finite.double()])


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def _standard_error(total: float, count: float, squares: float) -> float | None:
    """The standard error of the mean of `count` numbers; None for fewer than two."""
    if count < 2:
        return None
    variance = max(squares / count - (total / count) ** 2, 0.0)
    return float((variance / (count - 1)) ** 0.5)
