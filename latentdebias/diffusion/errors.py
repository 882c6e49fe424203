"""Error functions: what is made of the difference between prediction and target, element by element."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.registry import Registry


class ErrorFunction(ABC):
    """A function of the difference between a prediction and its target, whose mean over the elements is the error."""

    @abstractmethod
    def of(self, difference: Tensor, level: NoiseLevel, unit: Tensor) -> Tensor:
        """The error of each element: `(B, ...)` -> `(B, ...)`.

        `level` and `unit`, the share of the schedule below t, are shaped to multiply `difference`.
        """


ERRORS: Registry[ErrorFunction] = Registry("error function")


@ERRORS.register("squared")
@dataclass(frozen=True)
class Squared(ErrorFunction):
    """d^2. Only with this error does a weighting mean the same under every target."""

    def of(self, difference: Tensor, level: NoiseLevel, unit: Tensor) -> Tensor:
        return difference**2


@dataclass(frozen=True, kw_only=True)
class Scheduled(ErrorFunction):
    """Base class of errors that are linear beyond a width c, which may depend on t (kohya-ss: `--huber_schedule`).

    `schedule` constant: c. exponential: c^u, from 1 at data to c at noise, with u the share of the schedule below t.
    snr: c + (1 - c) / (1 + sigma / alpha)^2, from 1 at data to c at noise.
    """

    c: Annotated[float, Field(gt=0, le=1)] = 0.1
    schedule: Literal["constant", "exponential", "snr"] = "constant"

    def width(self, level: NoiseLevel, unit: Tensor) -> Tensor:
        """c at each row's t, shaped as `unit`."""
        widths = {
            "constant": lambda: torch.full_like(unit, self.c),
            "exponential": lambda: self.c**unit,
            "snr": lambda: self.c + (1 - self.c) * level.flow_alpha**2,
        }
        return widths[self.schedule]()


@ERRORS.register("huber")
@dataclass(frozen=True, kw_only=True)
class Huber(Scheduled):
    """d^2 / 2 where |d| <= c, else c (|d| - c / 2) (Huber 1964; `torch.nn.functional.huber_loss` with delta c)."""

    def of(self, difference: Tensor, level: NoiseLevel, unit: Tensor) -> Tensor:
        c, size = self.width(level, unit), difference.abs()
        return torch.where(size <= c, 0.5 * size**2, c * (size - 0.5 * c))


@ERRORS.register("pseudo_huber")
@dataclass(frozen=True, kw_only=True)
class PseudoHuber(Scheduled):
    """sqrt(d^2 + c^2) - c, smooth and linear beyond c (Khrapov et al. 2024, arXiv:2403.16728).

    `form` says what multiplies it: plain 1; huber 2 c, for which it is d^2 where d is small; smooth_l1 2. The last two
    are kohya-ss' `--loss_type huber` and `smooth_l1`; with a scheduled c they weigh the timesteps differently.
    """

    form: Literal["plain", "huber", "smooth_l1"] = "plain"

    def of(self, difference: Tensor, level: NoiseLevel, unit: Tensor) -> Tensor:
        c = self.width(level, unit)
        factor = {"plain": torch.ones_like(c), "huber": 2 * c, "smooth_l1": torch.full_like(c, 2)}[self.form]
        return factor * (torch.sqrt(difference**2 + c**2) - c)
