"""Learning-rate schedules: pure functions of the step, as a share of the optimizer's own learning rates."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from latentdebias.registry import Registry


@dataclass(frozen=True, kw_only=True)
class LRSchedule(ABC):
    """A schedule that starts with `warmup_steps` of linear warm-up."""

    warmup_steps: NonNegativeInt = 0

    def lr_share_at(self, step: int, steps: int) -> float:
        """The share of the learning rate that update number `step`, from 0, of `steps` takes."""
        return min(1.0, (step + 1) / max(self.warmup_steps, 1)) * self.decay_at(step, steps)

    @abstractmethod
    def decay_at(self, step: int, steps: int) -> float:
        """The share without the warm-up."""


LR_SCHEDULES: Registry[LRSchedule] = Registry("lr_schedule")


@LR_SCHEDULES.register("constant")
@dataclass(frozen=True, kw_only=True)
class Constant(LRSchedule):
    """1."""

    def decay_at(self, step: int, steps: int) -> float:
        return 1.0


@LR_SCHEDULES.register("cosine")
@dataclass(frozen=True, kw_only=True)
class Cosine(LRSchedule):
    """final + (1 - final) (1 + cos(pi s)) / 2, with s from 0 at the warm-up's end to 1 at `steps` (SGDR, eq. 5)."""

    final: Annotated[float, Field(ge=0, le=1)] = 0.0

    def decay_at(self, step: int, steps: int) -> float:
        s = (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)
        s = min(max(s, 0.0), 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * s)) / 2


@LR_SCHEDULES.register("inverse_sqrt")
@dataclass(frozen=True, kw_only=True)
class InverseSqrt(LRSchedule):
    """1 / sqrt(max(step / reference_steps, 1)) (EDM2, Karras et al. 2024)."""

    reference_steps: PositiveInt

    def decay_at(self, step: int, steps: int) -> float:
        return 1 / math.sqrt(max(step / self.reference_steps, 1.0))
