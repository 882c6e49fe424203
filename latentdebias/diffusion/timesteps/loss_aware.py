"""Timesteps drawn by how large their losses were: importance sampling that leaves the objective as it is."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from latentdebias.diffusion.schedules import DiscreteSchedule, Schedule
from latentdebias.diffusion.timesteps.timestep_sampler import TIMESTEP_SAMPLERS, TimestepSampler
from latentdebias.errors import UserError


@TIMESTEP_SAMPLERS.register("loss_aware")
@dataclass(frozen=True)
class LossAware(TimestepSampler):
    """p(t) in proportion to sqrt(E[L_t^2]) over the last `history` losses of each timestep, which divides the loss.

    Nichol & Dhariwal 2021 (arXiv:2102.09672), section 3.3. All timesteps are drawn alike until each has `history`
    losses, and a share `uniform` of the draws always is, as in the authors' code. The weight 1 / (T p) keeps the
    expected loss, and its gradient, what uniform timesteps give. The losses are kept in a `LossHistory` while training;
    outside it every timestep is drawn alike. Discrete schedules only.
    """

    history: Annotated[int, Field(gt=0, le=10_000)] = 10
    uniform: Annotated[float, Field(gt=0, le=1)] = 0.001

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        return u


class LossHistory:
    """The last losses of each timestep, in `table` (T + 1, history + 1) fp64, from which timesteps are drawn.

    The last column counts the losses seen; the last row takes losses that are not finite, and is never read. `table` is
    changed in place. `importance` is of the probabilities that the last `draw` was made with. Raises `UserError` for a
    continuous schedule.
    """

    def __init__(self, sampler: LossAware, schedule: Schedule) -> None:
        if not isinstance(schedule, DiscreteSchedule):
            raise UserError(
                "Timesteps 'loss_aware' keep the losses of each timestep, and this schedule is continuous; choose "
                "schedule linear, scaled_linear, cosine or sigmoid, or another density, such as logit_normal."
            )
        self.sampler, self.count = sampler, schedule.num_timesteps
        self.table = torch.zeros(self.count + 1, sampler.history + 1, dtype=torch.float64)
        self._drawn_with: Tensor | None = None

    def on(self, device: torch.device) -> Tensor:
        """Keep the losses on `device`, where no draw waits for another device; returns the table."""
        self.table = self.table.to(device)
        return self.table

    def probabilities(self) -> Tensor:
        """p(t) as it is now: (T,), fp64, on the device of `table`."""
        losses, seen = self.table[:-1, :-1], self.table[:-1, -1]
        alike = torch.full_like(seen, 1 / self.count)
        root = losses.square().mean(dim=1).sqrt()
        found = root / root.sum().clamp(min=torch.finfo(root.dtype).tiny)
        mixed = (1 - self.sampler.uniform) * found + self.sampler.uniform * alike
        return torch.where((seen >= self.sampler.history).all(), mixed, alike)

    def draw(self, u: Tensor) -> Tensor:
        """Timesteps `(B,)` from uniforms `u` `(B,)` in [0, 1)."""
        self._drawn_with = self.probabilities()
        ends = self._drawn_with.to(u.device).cumsum(0)
        return torch.searchsorted(ends / ends[-1], u.double(), right=True).clamp(max=self.count - 1)

    def importance(self, t: Tensor) -> Tensor:
        """1 / (T p(t)) at drawn timesteps t, which multiplies the loss: `(B,)` -> `(B,)`, fp32; call `draw` first."""
        assert self._drawn_with is not None, "timesteps have an importance once they have been drawn"
        return (1 / (self.count * self._drawn_with.to(t.device)[t.long()])).float()

    def add(self, t: Tensor, losses: Tensor) -> None:
        """Keep `losses` `(B,)` of timesteps `t` `(B,)`, in this order, each in the place of its timestep's oldest."""
        losses, history = losses.to(self.table), self.sampler.history
        t = torch.where(losses.isfinite(), t.to(self.table.device).long(), self.count)
        t, order = t.sort(stable=True)
        places = torch.arange(len(t), device=t.device)
        starts = torch.searchsorted(t, t)
        after = torch.searchsorted(t, t, right=True)
        # Of more losses of one timestep than are kept, the last ones.
        kept = after - places <= history
        rows = torch.where(kept, t, self.count)
        slots = (self.table[t, -1].long() + places - starts) % history
        self.table[rows, slots] = losses[order].nan_to_num()
        self.table[:, -1] += torch.bincount(t, minlength=self.count + 1)
