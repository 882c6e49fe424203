"""Timestep samplers: where along the schedule each row of the batch is trained."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.schedules import Schedule
from latentdebias.registry import Registry


class TimestepSampler(ABC):
    """A map from independent uniform numbers to positions on the schedule, 0 data to 1 noise.

    A timestep sampler is told each row's number in the global batch, so that it may spread rows evenly over all ranks.
    """

    @abstractmethod
    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        """Positions `(B,)` in [0, 1] on `schedule`, from uniforms `u` `(B,)` in [0, 1).

        The rows have the numbers `row` `(B,)` in a global batch of `rows`.
        """


TIMESTEP_SAMPLERS: Registry[TimestepSampler] = Registry("timestep sampler")


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


@TIMESTEP_SAMPLERS.register("log_normal")
@dataclass(frozen=True)
class LogNormal(TimestepSampler):
    """ln(sigma / alpha) normal, cut off at the schedule's ends (Karras et al. 2022, table 1: P_mean and P_std)."""

    mean: float = -1.2
    std: PositiveFloat = 1.2

    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        return schedule.unit_at(torch.exp(self.mean + self.std * torch.special.ndtri(u)))
