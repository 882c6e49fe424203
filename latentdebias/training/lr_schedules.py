"""Learning-rate schedules: the share of the optimizer's own learning rate that an update takes, by its number."""

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
        """The share that update number `step` of `steps` would take without the warm-up."""


LR_SCHEDULES: Registry[LRSchedule] = Registry("lr_schedule")


@LR_SCHEDULES.register("constant")
@dataclass(frozen=True, kw_only=True)
class Constant(LRSchedule):
    """The whole learning rate at every step."""

    def decay_at(self, step: int, steps: int) -> float:
        return 1.0


@LR_SCHEDULES.register("cosine")
@dataclass(frozen=True, kw_only=True)
class Cosine(LRSchedule):
    """Cosine decay: final + (1 - final) (1 + cos(pi s)) / 2 (SGDR, Loshchilov & Hutter 2017, eq. 5).

    s goes from 0 at the end of the warm-up to 1 at the last step.
    """

    final: Annotated[float, Field(ge=0, le=1)] = 0.0

    def decay_at(self, step: int, steps: int) -> float:
        s = (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)
        s = min(max(s, 0.0), 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * s)) / 2


@LR_SCHEDULES.register("inverse_sqrt")
@dataclass(frozen=True, kw_only=True)
class InverseSqrt(LRSchedule):
    """Inverse square root: 1 / sqrt(max(step / reference_steps, 1)) (EDM2, Karras et al. 2024)."""

    reference_steps: PositiveInt

    def decay_at(self, step: int, steps: int) -> float:
        return 1 / math.sqrt(max(step / self.reference_steps, 1.0))
