"""The effective weight of a training objective: how much each noise level counts, whatever target and schedule say it.

A loss that draws t with density p(t) and weighs the squared error of its target by w(t) is, stated for v,

    E = int W(l) |v_hat - v|^2 dl,    W(l) = p(t) w_v(t) / |dl / dt|,    l = log SNR

(Kingma & Gao 2023, arXiv:2303.00848, eq. 6, who state it for eps), so two runs with one W optimise the same, up to the
variance of their gradients. v is that of the path of equal SNR that preserves variance. Its error stays of one size at
all noise levels, where those of eps and x0 vanish at one end of the schedule, and would have W grow there for nothing.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.process import Diffusion
from latentdebias.diffusion.schedules import DiscreteSchedule, Schedule
from latentdebias.diffusion.targets import Target
from latentdebias.diffusion.timesteps import TimestepSampler
from latentdebias.diffusion.weightings import Weighting

QUANTILES = 200_001
CELLS = 2000


@dataclass(frozen=True)
class EffectiveWeight:
    """An effective weight, tabulated over log SNR, descending as t grows.

    `log_snr`, `weight` (W, which integrates to 1) and `density` (that of the timesteps drawn, per log SNR) are (N,)
    fp64. `covered` is False where the timestep sampler never draws.
    """

    log_snr: Tensor
    weight: Tensor
    density: Tensor

    @property
    def covered(self) -> Tensor:
        return self.density > 0

    def quantile(self, share: float) -> float:
        """The log SNR above which `share` of the weight lies; nan for a schedule of a single timestep."""
        if len(self.log_snr) < 2:
            return math.nan
        below = torch.cumulative_trapezoid(self.weight, -self.log_snr)
        return float(self.log_snr[1:][(below / below[-1] >= share).nonzero()[0, 0]])

    def share_above(self, log_snr: float) -> float:
        """The share of the weight that lies at a log SNR above `log_snr`."""
        inside = torch.where(self.log_snr > log_snr, self.weight, torch.zeros_like(self.weight))
        return float(torch.trapezoid(inside, -self.log_snr))

    def distance(self, other: "EffectiveWeight") -> float:
        """Half the integral of |W - W'| over log SNR: 0 for the same objective, 1 for two that share no noise level."""
        grid = torch.cat([self.log_snr, other.log_snr]).sort(descending=True).values
        difference = (self.at(grid) - other.at(grid)).abs()
        return float(torch.trapezoid(difference, -grid)) / 2

    def at(self, log_snr: Tensor) -> Tensor:
        """W at each of `log_snr` (N,), interpolated linearly; 0 beyond the schedule's ends."""
        ascending, values = self.log_snr.flip(0), self.weight.flip(0)
        after = torch.searchsorted(ascending, log_snr).clamp(1, len(ascending) - 1)
        low, high = ascending[after - 1], ascending[after]
        share = ((log_snr - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        found = values[after - 1] + share * (values[after] - values[after - 1])
        return torch.where((log_snr < ascending[0]) | (log_snr > ascending[-1]), torch.zeros_like(found), found)


def effective_weight(diffusion: Diffusion) -> EffectiveWeight:
    """The effective weight of the squared error that `diffusion` trains, normalised to integrate to 1."""
    return tabulate(diffusion.schedule, diffusion.target, diffusion.weighting, diffusion.timesteps)


def tabulate(schedule: Schedule, target: Target, weighting: Weighting, timesteps: TimestepSampler) -> EffectiveWeight:
    """The effective weight of these parts, whether or not a process may be made of them.

    A discrete schedule has one point a timestep; a continuous one 2,000, without the very ends, where log SNR may be
    infinite. Raises `UserError` where the weighting has no meaning on the schedule.
    """
    cells = schedule.num_timesteps if isinstance(schedule, DiscreteSchedule) else CELLS
    edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    t = schedule.from_unit(middle)
    level = schedule.level_and_rate(t, torch.float64).inside()
    assert level.rate is not None
    on_target = weighting.weight_of_target(target, level)
    norm = torch.hypot(level.alpha, level.sigma)
    preserving = NoiseLevel(level.alpha / norm, level.sigma / norm)
    # |dv|^2 = |dx0|^2 / sigma^2 on the path that preserves variance, and |dx0| is the same on both.
    on_v = on_target * (target.det(level) / level.sigma * preserving.sigma) ** 2
    drawn = _mass_below(timesteps, schedule, edges).diff() * cells
    density = drawn / level.rate.clamp(min=torch.finfo(torch.float64).tiny)
    weight = on_v * density
    kept = weight.isfinite() & density.isfinite()
    log_snr, weight, density = level.log_snr[kept], weight[kept], density[kept]
    return EffectiveWeight(log_snr, weight / torch.trapezoid(weight, -log_snr), density)


def _mass_below(timesteps: TimestepSampler, schedule: Schedule, edges: Tensor) -> Tensor:
    """The probability that a drawn position is below each of `edges` (M,), shares of the schedule, ascending."""
    u = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    positions = timesteps.positions(u, torch.zeros_like(u), 1, schedule).sort().values
    after = torch.searchsorted(positions, edges)
    low, high = (after - 1).clamp(0, QUANTILES - 1), after.clamp(0, QUANTILES - 1)
    gap = (positions[high] - positions[low]).clamp(min=1e-300)
    share = ((edges - positions[low]) / gap).clamp(0, 1)
    between = (after > 0) & (after < QUANTILES)
    below = torch.where(between, (low + 0.5 + share) / QUANTILES, after.double() / QUANTILES)
    # What lies at the very ends belongs to the first and the last cell.
    below[0], below[-1] = 0.0, 1.0
    return below
