"""EDM's second-order sampler, deterministic and stochastic, on any schedule.

It is written out here because diffusers' HeunDiscreteScheduler has no churn, starts from the table's last level and
keeps its state in fp32, and its FlowMatchHeunDiscreteScheduler knows the flow path only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from latentdebias.diffusion import Schedule
from latentdebias.diffusion.schedules import DiscreteSchedule
from latentdebias.sampling.denoiser import Denoiser, Noise
from latentdebias.sampling.samplers import SAMPLERS, Sampler

LARGEST_CHURN = math.sqrt(2) - 1


@SAMPLERS.register("heun")
@dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    """Algorithm 2 of Karras et al. 2022 on x = z / alpha, whose noise level is s = sigma / alpha, in fp64.

    The levels s run from `sigma_max` to `sigma_min` by their eq. 5 with `rho`, kept inside the schedule. On a discrete
    schedule each is rounded to a timestep: to the one nearest in log s or, with `rounding` sigma, nearest in s, as
    Min-SNR samples its variance-preserving models. `s_churn`, `s_tmin`, `s_tmax` and `s_noise` are those of the
    algorithm; with s_churn 0 it is deterministic.
    """

    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0
    rho: PositiveFloat = 7.0
    s_churn: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    s_tmin: NonNegativeFloat = 0.0
    s_tmax: Annotated[float, Field(allow_inf_nan=True)] = math.inf
    s_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    rounding: Literal["log_sigma", "sigma"] = "log_sigma"

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

    def adds_noise(self) -> bool:
        return self.s_churn > 0

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        schedule = denoise.diffusion.schedule
        visited = [self.rounded(schedule, s) for s in self.levels(schedule, steps)]
        x = visited[0].s * noise()
        for i, here in enumerate(visited):
            churn = self._churn(here.s, steps)
            noisier = self.rounded(schedule, here.s * (1 + churn)) if churn else here
            if noisier.s > here.s:
                x = x + math.sqrt(noisier.s**2 - here.s**2) * self.s_noise * noise()
            slope = self._slope(denoise, x, noisier, i)
            if i == steps - 1:
                return x - noisier.s * slope
            there = visited[i + 1]
            euler = x + (there.s - noisier.s) * slope
            x = x + (there.s - noisier.s) * (slope + self._slope(denoise, euler, there, i)) / 2
        raise AssertionError("at least one step")

    def levels(self, schedule: Schedule, steps: int) -> list[float]:
        """The noise level s of each step before any rounding (Karras et al. 2022, eq. 5)."""
        lowest, *_, highest = schedule.level(schedule.grid(), torch.float64).ratio.tolist()
        ends = max(self.sigma_min, lowest) ** (1 / self.rho), min(self.sigma_max, highest) ** (1 / self.rho)
        return [(ends[1] + i / max(steps - 1, 1) * (ends[0] - ends[1])) ** self.rho for i in range(steps)]

    def rounded(self, schedule: Schedule, s: float) -> "Stop":
        """The timestep of noise level s on `schedule`, or the nearest to it."""
        t = ROUNDINGS[self.rounding](schedule, s)
        level = schedule.level(t, torch.float64)
        return Stop(t, level.alpha.item(), level.ratio.item())

    def _churn(self, s: float, steps: int) -> float:
        return min(self.s_churn / steps, LARGEST_CHURN) if self.s_tmin <= s <= self.s_tmax else 0.0

    @staticmethod
    def _slope(denoise: Denoiser, x: Tensor, at: "Stop", step: int) -> Tensor:
        """dx/ds = (x - D(x; s)) / s."""
        return (x - denoise(at.alpha * x, at.t, step).x0) / at.s


@dataclass(frozen=True)
class Stop:
    """A timestep `()` on the CPU at which the network is asked, its alpha, and its noise level s = sigma / alpha."""

    t: Tensor
    alpha: float
    s: float


def _nearest_log_sigma(schedule: Schedule, s: float) -> Tensor:
    return schedule.from_unit(schedule.unit_at(torch.tensor([s], dtype=torch.float64)))[0]


def _nearest_sigma(schedule: Schedule, s: float) -> Tensor:
    if not isinstance(schedule, DiscreteSchedule):
        return _nearest_log_sigma(schedule, s)
    timesteps = schedule.grid()
    return timesteps[(schedule.level(timesteps, torch.float64).ratio - s).abs().argmin()]


ROUNDINGS: dict[str, Callable[[Schedule, float], Tensor]] = {
    "log_sigma": _nearest_log_sigma,
    "sigma": _nearest_sigma,
}
