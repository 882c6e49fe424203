"""Continuous noise schedules, whose timestep t is any real number from 0 to 1."""

import math
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.schedules import SCHEDULES, Schedule


class ContinuousSchedule(Schedule):
    """Base class of schedules on which t in [0, 1] is itself the share of the schedule that lies below it."""

    def from_unit(self, u: Tensor) -> Tensor:
        return u

    def to_unit(self, t: Tensor) -> Tensor:
        return t

    def grid(self) -> Tensor:
        return torch.linspace(0, 1, 1001, dtype=torch.float64)


@SCHEDULES.register("flow")
@dataclass(frozen=True, kw_only=True)
class Flow(ContinuousSchedule):
    """The linear path alpha = 1 - sigma, with t in [0, 1] and the resolution shift of SD3.

    sigma = shift t / (1 + (shift - 1) t)   (Esser et al. 2024, eq. 23); the network is told 1000 sigma.
    """

    shift: PositiveFloat = 1.0

    def _sigma(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 + (self.shift - 1) * t)

    def level(self, t: Tensor, dtype: torch.dtype = torch.float32) -> NoiseLevel:
        sigma = self._sigma(t.to(dtype))
        return NoiseLevel(1 - sigma, sigma)

    def unit_at(self, ratio: Tensor) -> Tensor:
        return self.from_model_time(1000 * ratio / (1 + ratio))

    def model_time(self, t: Tensor) -> Tensor:
        return 1000 * self._sigma(t)

    def from_model_time(self, time: Tensor) -> Tensor:
        sigma = time / 1000
        return sigma / (self.shift - (self.shift - 1) * sigma)


@SCHEDULES.register("edm")
@dataclass(frozen=True, kw_only=True)
class EdmLevels(ContinuousSchedule):
    """EDM's noise levels s from sigma_min to sigma_max, log s linear in t in [0, 1] (Karras et al. 2022, table 1).

    The path is scaled to preserve variance, alpha = 1 / sqrt(1 + s^2) and sigma = s alpha, so that z = alpha x of EDM's
    x = x0 + s eps: what target edm shows the network is the same. The network is told c_noise = log(s) / 4, for which
    it needs a time embedding of real numbers, not a table.
    """

    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0

    def __post_init__(self) -> None:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")

    def _log_ratio(self, t: Tensor) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return low + (high - low) * t

    def level(self, t: Tensor, dtype: torch.dtype = torch.float32) -> NoiseLevel:
        ratio = self._log_ratio(t.to(dtype)).exp()
        alpha = torch.rsqrt(1 + ratio**2)
        return NoiseLevel(alpha, ratio * alpha)

    def unit_at(self, ratio: Tensor) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return ((ratio.log() - low) / (high - low)).clamp(0, 1)

    def model_time(self, t: Tensor) -> Tensor:
        return self._log_ratio(t) / 4

    def from_model_time(self, time: Tensor) -> Tensor:
        return self.unit_at((4 * time).exp())
