"""The options of guidance: how strong it is along the trajectory, and by which rule; each named from the YAML."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.schedules import Flow
from latentdebias.diffusion.targets import FlowVelocity
from latentdebias.errors import UserError
from latentdebias.registry import Registry, Spec
from latentdebias.sampling.network import Network

Share = Annotated[float, Field(ge=0, le=1)]


class GuidanceSchedule(ABC):
    """How guidance changes along the trajectory."""

    @abstractmethod
    def factor(self, position: float) -> float:
        """What guidance - 1 is multiplied by at a position on the schedule, 1 noise to 0 data; its mean is 1."""


GUIDANCE_SCHEDULES: Registry[GuidanceSchedule] = Registry("guidance schedule")


@GUIDANCE_SCHEDULES.register("constant")
@dataclass(frozen=True)
class ConstantGuidance(GuidanceSchedule):
    """The same everywhere."""

    def factor(self, position: float) -> float:
        return 1.0


@GUIDANCE_SCHEDULES.register("linear")
@dataclass(frozen=True)
class LinearGuidance(GuidanceSchedule):
    """2 (1 - t / T): rises from none at noise (Wang et al. 2024)."""

    def factor(self, position: float) -> float:
        return 2 * (1 - position)


@GUIDANCE_SCHEDULES.register("cosine")
@dataclass(frozen=True)
class CosineGuidance(GuidanceSchedule):
    """1 + cos(pi t / T): rises from none at noise (Wang et al. 2024)."""

    def factor(self, position: float) -> float:
        return 1 + math.cos(math.pi * position)


class GuidanceRule(ABC):
    """How the answer with the class and the weaker one make the guided answer."""

    @abstractmethod
    def combine(self, strong: Tensor, weak: Tensor, guidance: float) -> Tensor:
        """The guided prediction `(B, C, H, W)`."""

    def check(self, diffusion: Diffusion) -> None:  # noqa: B027
        """Raise `UserError` for a process on which the rule means nothing."""


GUIDANCE_RULES: Registry[GuidanceRule] = Registry("guidance rule")


@GUIDANCE_RULES.register("cfg")
@dataclass(frozen=True)
class CfgRule(GuidanceRule):
    """weak + guidance (strong - weak) (Ho & Salimans 2022)."""

    def combine(self, strong: Tensor, weak: Tensor, guidance: float) -> Tensor:
        return weak + guidance * (strong - weak)


@GUIDANCE_RULES.register("cfg_zero")
@dataclass(frozen=True)
class CfgZeroRule(GuidanceRule):
    """The same with s weak for weak, s = <strong, weak> / |weak|^2 of each image (CFG-Zero*, Fan et al. 2025)."""

    def combine(self, strong: Tensor, weak: Tensor, guidance: float) -> Tensor:
        dims = tuple(range(1, weak.ndim))
        scale = (strong * weak).sum(dims, keepdim=True) / (weak**2).sum(dims, keepdim=True).clamp(min=1e-8)
        return CfgRule().combine(strong, scale * weak, guidance)

    def check(self, diffusion: Diffusion) -> None:
        if not (isinstance(diffusion.schedule, Flow) and isinstance(diffusion.target, FlowVelocity)):
            raise UserError(
                "guidance_rule 'cfg_zero' projects velocities, so it needs a model of schedule flow and target flow; "
                "choose guidance_rule cfg."
            )


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """How predictions are guided; `guidance` 1 is not at all.

    `guidance_interval` holds positions on the schedule, 0 data to 1 noise (Kynkaanniemi et al. 2024): Min-SNR's
    t <= 800 of 1000 is [0, 0.8]; outside it the weaker half is not run. `guidance_channels` guides the first so many
    channels, null all; DiT's numbers are of 3. `guidance_rescale` is Lin et al.'s phi (2023). `zero_init` is the number
    of first steps on the flow path that stand still.
    """

    guidance: Annotated[float, Field(allow_inf_nan=False)] = 1.5
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    guidance_schedule: Spec = "constant"
    guidance_rule: Spec = "cfg"
    guidance_channels: PositiveInt | None = None
    guidance_rescale: Share = 0.0
    zero_init: NonNegativeInt = 0

    @cached_property
    def schedule(self) -> GuidanceSchedule:
        return GUIDANCE_SCHEDULES.build(self.guidance_schedule)

    @cached_property
    def rule(self) -> GuidanceRule:
        return GUIDANCE_RULES.build(self.guidance_rule)

    def scale(self, position: float) -> float:
        """The guidance at a position on the schedule; 1 outside the interval."""
        low, high = self.guidance_interval
        if not low <= position <= high:
            return 1.0
        return 1 + (self.guidance - 1) * self.schedule.factor(position)

    def check(self, diffusion: Diffusion, num_classes: int, channels: int, weaker: Network | None) -> None:
        """Raise `UserError` for guidance that this model cannot have, and for options that would do nothing."""
        if num_classes == 0 and self.guidance != 1 and weaker is None:
            raise UserError(
                f"guidance is {self.guidance}, and this model is unconditional: without classes there is nothing to "
                f"guide towards. Use guidance 1, or guide it by a weaker model: --autoguidance DIR"
            )
        self._check_use(weaker)
        self._check_values(channels)
        self.rule.check(diffusion)
        if weaker is not None and not isinstance(self.rule, CfgRule):
            raise UserError(
                f"guidance_rule {self.guidance_rule!r} is stated for the null class of one model, and autoguidance "
                f"takes two models; choose guidance_rule cfg."
            )
        if self.zero_init and not isinstance(diffusion.schedule, Flow):
            raise UserError(
                f"zero_init is {self.zero_init}, and this model's schedule is not flow: there is no velocity to set to "
                f"zero. Leave it at 0."
            )

    def _check_use(self, weaker: Network | None) -> None:
        _ = self.schedule  # a name that does not exist is an error also where there is no guidance
        if self.guidance != 1:
            return
        plain = GuidanceOptions(guidance=1, zero_init=self.zero_init)
        idle = [each.name for each in fields(plain) if getattr(self, each.name) != getattr(plain, each.name)]
        if weaker is not None:
            idle.append("autoguidance")
        if idle:
            raise UserError(f"guidance is 1, which is none, so {', '.join(idle)} would do nothing; set guidance too.")

    def _check_values(self, channels: int) -> None:
        low, high = self.guidance_interval
        if low >= high:
            raise UserError(f"guidance_interval ({low}, {high}) is empty; its first position must be below its second.")
        if self.guidance_channels is not None and self.guidance_channels > channels:
            raise UserError(
                f"guidance_channels is {self.guidance_channels}, and the model's latents have {channels}; choose fewer."
            )
