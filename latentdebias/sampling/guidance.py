"""The `guidance` option of `sampling:` and `evaluation:`: how strongly, where and by which rule guidance acts."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.schedules import Flow
from latentdebias.diffusion.targets import FlowVelocity
from latentdebias.errors import UserError
from latentdebias.registry import Registry, option
from latentdebias.sampling.network import ModelFacts

Share = Annotated[float, Field(ge=0, le=1)]


class GuidanceSchedule(ABC):
    """How the strength of guidance changes along the trajectory."""

    @abstractmethod
    def factor(self, position: float) -> float:
        """The factor on (scale - 1) at a position on the noise schedule, 1 noise to 0 data; its mean is 1."""


GUIDANCE_SCHEDULES: Registry[GuidanceSchedule] = Registry("guidance schedule")


@GUIDANCE_SCHEDULES.register("constant")
@dataclass(frozen=True)
class ConstantGuidance(GuidanceSchedule):
    """The same strength at every noise level."""

    def factor(self, position: float) -> float:
        return 1.0


@GUIDANCE_SCHEDULES.register("linear")
@dataclass(frozen=True)
class LinearGuidance(GuidanceSchedule):
    """Factor 2 (1 - t / T), from 0 at pure noise to 2 at the data (Wang et al. 2024)."""

    def factor(self, position: float) -> float:
        return 2 * (1 - position)


@GUIDANCE_SCHEDULES.register("cosine")
@dataclass(frozen=True)
class CosineGuidance(GuidanceSchedule):
    """Factor 1 + cos(pi t / T), from 0 at pure noise to 2 at the data (Wang et al. 2024)."""

    def factor(self, position: float) -> float:
        return 1 + math.cos(math.pi * position)


class GuidanceRule(ABC):
    """How the prediction under the class and the weaker prediction are combined into the guided one."""

    @abstractmethod
    def combine(self, strong: Tensor, weak: Tensor, scale: float) -> Tensor:
        """The guided prediction (B, C, H, W) of two predictions (B, C, H, W) in the network's target."""

    def check(self, diffusion: Diffusion) -> None:  # noqa: B027
        """Raise `UserError` for a diffusion process in which the rule has no meaning."""


GUIDANCE_RULES: Registry[GuidanceRule] = Registry("guidance rule")


@GUIDANCE_RULES.register("cfg")
@dataclass(frozen=True)
class CfgRule(GuidanceRule):
    """Classifier-free guidance: weak + scale (strong - weak) (Ho & Salimans 2022, eq. 6)."""

    def combine(self, strong: Tensor, weak: Tensor, scale: float) -> Tensor:
        return weak + scale * (strong - weak)


@GUIDANCE_RULES.register("cfg_zero")
@dataclass(frozen=True)
class CfgZeroRule(GuidanceRule):
    """CFG-Zero*: classifier-free guidance with s weak in place of weak (Fan et al. 2025).

    s = <strong, weak> / |weak|^2 of each image, so that s weak is the projection of strong onto weak. Defined for
    velocities of the flow path only.
    """

    def combine(self, strong: Tensor, weak: Tensor, scale: float) -> Tensor:
        dims = tuple(range(1, weak.ndim))
        projection = (strong * weak).sum(dims, keepdim=True) / (weak**2).sum(dims, keepdim=True).clamp(min=1e-8)
        return CfgRule().combine(strong, projection * weak, scale)

    def check(self, diffusion: Diffusion) -> None:
        if not (isinstance(diffusion.schedule, Flow) and isinstance(diffusion.target, FlowVelocity)):
            raise UserError(
                "guidance.rule 'cfg_zero' projects velocities, so it needs a model of schedule flow and target flow; "
                "choose guidance.rule cfg."
            )


@dataclass(frozen=True)
class Guidance:
    """How a network's predictions are guided, under `guidance:` in a config; a number alone is the scale.

    Noise levels are told by their position on the schedule, 0 for data to 1 for pure noise.
    """

    main_field: ClassVar[str] = "scale"

    scale: Annotated[float, Field(allow_inf_nan=False)] = option(..., "1: none")
    interval: tuple[Share, Share] = option(
        (0.0, 1.0),
        "positions on the schedule, 0 data to 1 noise; outside it the null class is not run",
    )
    schedule: Annotated[GuidanceSchedule, GUIDANCE_SCHEDULES.part] = option(ConstantGuidance(), "")
    rule: Annotated[GuidanceRule, GUIDANCE_RULES.part] = option(CfgRule(), "cfg_zero: flow only")
    channels: PositiveInt | None = option(None, "guide only the first so many channels; 3: DiT's published numbers")
    rescale: Share = option(0.0, "0 to 1, phi of Lin et al. 2023")

    def scale_at(self, position: float) -> float:
        """The guidance scale at a position on the schedule; 1 outside `interval` (Kynkaanniemi et al. 2024)."""
        low, high = self.interval
        if not low <= position <= high:
            return 1.0
        return 1 + (self.scale - 1) * self.schedule.factor(position)

    def check(self, model: ModelFacts) -> None:
        """Raise `UserError` for guidance that `model` cannot have, and for options that would do nothing."""
        if model.num_classes == 0 and self.scale != 1 and not model.autoguided:
            raise UserError(
                f"guidance is {self.scale}, and this model is unconditional: without classes there is nothing to "
                f"guide towards. Use guidance 1, or guide it by a weaker model: --autoguidance DIR"
            )
        self._check_use(model)
        self._check_values(model)
        self.rule.check(model.diffusion)
        if model.autoguided and not isinstance(self.rule, CfgRule):
            raise UserError(
                f"guidance.rule {GUIDANCE_RULES.name_of(self.rule)!r} is stated for the null class of one model, and "
                f"autoguidance takes two models; choose guidance.rule cfg."
            )

    def _check_use(self, model: ModelFacts) -> None:
        if self.scale != 1:
            return
        without = Guidance(self.scale)
        idle = [
            f"guidance.{each.name}" for each in fields(self) if getattr(self, each.name) != getattr(without, each.name)
        ]
        if model.autoguided:
            idle.append("autoguidance")
        if idle:
            raise UserError(f"guidance is 1, which is none, so {', '.join(idle)} would do nothing; set guidance too.")

    def _check_values(self, model: ModelFacts) -> None:
        low, high = self.interval
        if low >= high:
            raise UserError(f"guidance.interval ({low}, {high}) is empty; its first position must be below its second.")
        if self.channels is not None and self.channels > model.channels:
            raise UserError(
                f"guidance.channels is {self.channels}, and the model's latents have {model.channels}; choose fewer."
            )
