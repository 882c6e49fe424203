"""Timestep samplers with a density over the noise level, which is the same training on every schedule."""

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.schedules import Schedule
from latentdebias.diffusion.timesteps.timestep_sampler import TIMESTEP_SAMPLERS, TimestepSampler


@TIMESTEP_SAMPLERS.register("log_normal")
@dataclass(frozen=True)
class LogNormal(TimestepSampler):
    """ln(sigma / alpha) normal, cut off at the schedule's ends (Karras et al. 2022, table 1: P_mean and P_std)."""

    mean: float = -1.2
    std: PositiveFloat = 1.2

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        return schedule.unit_at(torch.exp(self.mean + self.std * torch.special.ndtri(u)))


@TIMESTEP_SAMPLERS.register("laplace")
@dataclass(frozen=True)
class LaplaceDensity(TimestepSampler):
    """log SNR with density e^(-|log SNR - mu| / b) / 2b, cut off at the schedule's ends (Hang et al. 2024)."""

    mu: float = 0.0
    b: PositiveFloat = 0.5

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        distance = u - 0.5
        # u = 0 would be an infinite log SNR; at most 80 b from the mean no uniform number of fp32 is cut off.
        out = -torch.log1p((-2 * distance.abs()).clamp(min=-1 + 1e-35)).clamp(min=-80)
        log_snr = self.mu - self.b * distance.sign() * out.clamp(max=80)
        return schedule.unit_at(torch.exp(-0.5 * log_snr))
