"""The contract of a loss weighting: a function of the noise level, in the space whose squared error it multiplies.

A weighting w stated in space s is used under target y as

    w_y = w_s (det_s / det_y)^2          (see `targets`: |ds|^2 / |dy|^2 at a fixed z)

so each formula below stands as its paper prints it, and holds under every target.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.targets import TARGETS, Target
from latentdebias.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Weighting(ABC):
    """A weight on the squared error, as a function of the noise level.

    `space` is the target whose squared error the formula multiplies ("target": whatever the network predicts);
    `max_weight` caps the weight in the space of the network's own target; `normalize: mean` scales the weight so that
    its mean over the timestep sampler is 1. `per` says what the formula is a weight on: each timestep ("t"), or each
    log SNR ("log_snr"), which multiplies it by -1/2 d log SNR / dt, so that with uniform timesteps the loss is
    1/2 int w(log SNR) |error|^2 d log SNR whatever the schedule (Kingma & Gao 2023, arXiv:2303.00848, eq. 6).
    """

    space: str = "target"
    per: Literal["t", "log_snr"] = "t"
    max_weight: PositiveFloat | None = None
    normalize: Literal["mean"] | None = None

    @abstractmethod
    def weight(self, level: NoiseLevel) -> Tensor:
        """The weight w on the squared error in `space` at levels kept inside by `NoiseLevel.inside`: `(B,)`."""

    def weight_of_target(self, target: Target, level: NoiseLevel) -> Tensor:
        """The weight on the squared error of `target`, capped at `max_weight`: `(B,)`, in the dtype of the level."""
        level = level.inside()
        weight = self.weight(level)
        if self.per == "log_snr":
            assert level.rate is not None, "level_and_rate gives it"
            weight = weight * level.rate / 2
        if self.space != "target":
            weight = weight * target.error_ratio(TARGETS.build(self.space), level)
        return weight if self.max_weight is None else weight.clamp(max=self.max_weight)


WEIGHTINGS: Registry[Weighting] = Registry("weighting")
