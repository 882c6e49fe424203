"""The contract of a noise schedule: from a timestep t to alpha and sigma of z_t = alpha x0 + sigma eps.

t is a position on the schedule: a whole number from 0 to T - 1 on a discrete schedule, a real number from 0 to 1 on a
continuous one; the noise grows with t. The *time* is what the network is told of t.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.registry import Registry

STEP = 1e-4
"""The share of the schedule over which a rate is measured where a schedule does not state its own."""


class Schedule(ABC):
    """The map from a timestep t to the noise level, and to the time that the network is told."""

    @abstractmethod
    def level(self, t: Tensor, dtype: torch.dtype = torch.float32) -> NoiseLevel:
        """The noise level at t `(B,)`: alpha and sigma `(B,)` in `dtype`; with beta where the schedule is discrete."""

    def log_snr_rate(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """How fast log SNR falls at t, per share u of the schedule: -d log SNR / du, `(B,)` -> `(B,)`.

        Here from the difference between two levels nearby, for schedules that do not state their own.
        """
        u = self.to_unit(t.double())
        low, high = (self.from_unit((u + step).clamp(0, 1 - STEP)) for step in (-STEP, STEP))
        fall = self.level(low, torch.float64).log_snr - self.level(high, torch.float64).log_snr
        return (fall / (self.to_unit(high) - self.to_unit(low))).to(dtype)

    def level_and_rate(self, t: Tensor, dtype: torch.dtype = torch.float32) -> NoiseLevel:
        """The noise level at t `(B,)` with its `rate` `(B,)`, which `level` leaves out, for only weightings need it."""
        return replace(self.level(t, dtype), rate=self.log_snr_rate(t, dtype))

    @abstractmethod
    def from_unit(self, u: Tensor) -> Tensor:
        """The timestep at share u in [0, 1) of the schedule, 0 data to 1 noise: `(B,)` -> `(B,)`."""

    @abstractmethod
    def to_unit(self, t: Tensor) -> Tensor:
        """The share of the schedule, in [0, 1], that lies below timestep t: `(B,)` -> `(B,)`."""

    @abstractmethod
    def unit_at(self, ratio: Tensor) -> Tensor:
        """The share u of the schedule at which sigma / alpha is `ratio`, or nearest to it: `(B,)` -> `(B,)`."""

    @abstractmethod
    def model_time(self, t: Tensor) -> Tensor:
        """The time that the network is told, such as the step's number or 1000 sigma: `(B,)` -> `(B,)`."""

    @abstractmethod
    def from_model_time(self, time: Tensor) -> Tensor:
        """The timestep t whose `model_time` is `time`: `(B,)` -> `(B,)`."""

    def for_latents(self, shape: tuple[int, int, int] | None) -> "Schedule":
        """The schedule for latents of `shape` (C, h, w), where a field of it depends on the shape; else itself."""
        return self

    @abstractmethod
    def grid(self) -> Tensor:
        """All timesteps `(T,)` of a discrete schedule; of a continuous one a fine grid with both ends."""


SCHEDULES: Registry[Schedule] = Registry("schedule")
