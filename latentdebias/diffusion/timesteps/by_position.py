"""Timestep samplers with a density over the schedule's own position, 0 data to 1 noise."""

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from scipy.special import betainc
from torch import Tensor

from latentdebias.diffusion.schedules import Schedule
from latentdebias.diffusion.timesteps.timestep_sampler import TIMESTEP_SAMPLERS, TimestepSampler

NO_CHANGE = 0.05
"""How fast sigma grows, per share of the schedule, where the authors' code of SpeeD takes it to change no more."""
BETA_POINTS = 20_001
BETA_REACH = 40.0
"""The logits of t at which the distribution function of `beta` is tabulated: so many, from -40 to 40."""


@TIMESTEP_SAMPLERS.register("uniform")
@dataclass(frozen=True)
class Uniform(TimestepSampler):
    """Every timestep is drawn alike."""

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        return u


@TIMESTEP_SAMPLERS.register("stratified")
@dataclass(frozen=True)
class Stratified(TimestepSampler):
    """One row in each of `rows` equal strata, so that every global batch covers the schedule evenly."""

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        return (row + u) / rows


@TIMESTEP_SAMPLERS.register("logit_normal")
@dataclass(frozen=True)
class LogitNormal(TimestepSampler):
    """Positions are the sigmoid of a normal variable, so most training is in the middle (Esser et al. 2024, eq. 19)."""

    mean: float = 0.0
    std: PositiveFloat = 1.0

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@TIMESTEP_SAMPLERS.register("mode")
@dataclass(frozen=True)
class Mode(TimestepSampler):
    """1 - u - scale (cos^2(pi u / 2) - 1 + u): most training in the middle, or at both ends for a scale below 0.

    SD3, Esser et al. 2024 (arXiv:2403.03206), eq. 20. The map is one to one for scales from -1 to 2 / (pi - 2) = 1.75.
    """

    scale: Annotated[float, Field(ge=-1, le=2 / (math.pi - 2))] = 1.29

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        return 1 - u - self.scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)


@TIMESTEP_SAMPLERS.register("cosmap")
@dataclass(frozen=True)
class Cosmap(TimestepSampler):
    """1 - 1 / (tan(pi u / 2) + 1), whose density is 2 / (pi (1 - 2 t + 2 t^2)) (SD3, Esser et al. 2024, eq. 21)."""

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        return 1 - 1 / (torch.tan(math.pi / 2 * u) + 1)


@TIMESTEP_SAMPLERS.register("beta")
@dataclass(frozen=True)
class Beta(TimestepSampler):
    """Positions with the density t^(a - 1) (1 - t)^(b - 1) / B(a, b), as in pi0's training (Black et al. 2024).

    Quantiles come from a table of the distribution function over logit t, and are exact to 1e-6.
    """

    a: PositiveFloat = 1.5
    b: PositiveFloat = 1.0

    @functools.cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        """The distribution function at each logit of t: (M,) each, fp64; the smaller tail is kept exact."""
        logit = np.linspace(-BETA_REACH, BETA_REACH, BETA_POINTS)
        below = betainc(self.a, self.b, 1 / (1 + np.exp(-logit)))
        return torch.from_numpy(logit), torch.from_numpy(below)

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        logit, below = (each.to(u.device) for each in self._table)
        u64 = u.double()
        after = torch.searchsorted(below, u64).clamp(1, len(below) - 1)
        low, high = below[after - 1], below[after]
        share = ((u64 - low) / (high - low).clamp(min=torch.finfo(torch.float64).tiny)).clamp(0, 1)
        return torch.sigmoid(logit[after - 1] + share * (logit[after] - logit[after - 1])).to(u.dtype)


@TIMESTEP_SAMPLERS.register("speed")
@dataclass(frozen=True)
class Speed(TimestepSampler):
    """SpeeD: the timesteps where the process no longer changes are drawn k times less often (Wang et al. 2024, eq. 7).

    arXiv:2405.17403. `tau` is the share of the schedule below which all are drawn alike. 0.7 is the authors', for the
    linear schedule; "auto" is where sigma begins to grow by less than 0.05 a schedule: 0.70 on linear, 0.98 on cosine.

    Two parts of SpeeD are left out. The authors' code mirrors half of a batch's t at tau, which also halves the share
    of the last part: k = 10.4 has that share. And it multiplies the loss below tau by 0.4 to 0.6, linear in d sigma^2 /
    dt between its smallest and its largest, which is a function of the schedule, where a weighting is one of the noise
    level.
    """

    k: Annotated[float, Field(ge=1)] = 5.0
    tau: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = 0.7

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        tau = _end_of_change(schedule) if self.tau == "auto" else self.tau
        mass = self.k * tau + 1 - tau
        below = u * mass / self.k
        return torch.where(below < tau, below, tau + (u * mass - self.k * tau))


def _end_of_change(schedule: Schedule) -> float:
    """The share of the schedule after which sigma, of the path that preserves variance, grows by less than 0.05."""
    level = schedule.level(schedule.grid(), torch.float64)
    sigma = level.sigma / torch.hypot(level.alpha, level.sigma)
    changing = (sigma.diff() * len(sigma) >= NO_CHANGE).nonzero()
    return (int(changing[-1]) + 1) / len(sigma) if len(changing) else 1.0
