"""Loss weightings: a function of the noise level, stated in the space whose squared error it multiplies.

A weighting w stated in space s is used under target y as

    w_y = w_s (det_s / det_y)^2          (see `targets`: |ds|^2 / |dy|^2 at a fixed z)

so each formula below stands as its paper prints it, and holds under every target.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.targets import TARGETS, Target
from latentdebias.errors import UserError
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
            stated = TARGETS.build(self.space)
            ratio = stated.det(level) / target.det(level)
            weight = weight * ratio**2
        return weight if self.max_weight is None else weight.clamp(max=self.max_weight)


WEIGHTINGS: Registry[Weighting] = Registry("weighting")


@WEIGHTINGS.register("constant")
@dataclass(frozen=True, kw_only=True)
class Constant(Weighting):
    """1 in the target's own space: each paper's baseline."""

    def weight(self, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.alpha)


@WEIGHTINGS.register("snr")
@dataclass(frozen=True, kw_only=True)
class Snr(Weighting):
    """SNR on x0, which is the constant weight on eps (Salimans & Ho 2022)."""

    space: str = "x0"

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.snr


@WEIGHTINGS.register("inv_snr")
@dataclass(frozen=True, kw_only=True)
class InvSnr(Weighting):
    """1 / SNR on eps, which is the constant weight on x0 (Debias, appendix B)."""

    space: str = "eps"

    def weight(self, level: NoiseLevel) -> Tensor:
        return 1 / level.snr


@WEIGHTINGS.register("max_snr")
@dataclass(frozen=True, kw_only=True)
class MaxSnr(Weighting):
    """max(SNR, gamma) on x0, with gamma = 1: the truncated SNR of Salimans & Ho 2022."""

    space: str = "x0"
    gamma: float = 1.0

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.snr.clamp(min=self.gamma)


@WEIGHTINGS.register("min_snr")
@dataclass(frozen=True, kw_only=True)
class MinSnr(Weighting):
    """min(SNR, gamma) on x0, with gamma = 5 (Min-SNR, section 3.4)."""

    space: str = "x0"
    gamma: PositiveFloat = 5.0

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.snr.clamp(max=self.gamma)


@WEIGHTINGS.register("soft_min_snr")
@dataclass(frozen=True, kw_only=True)
class SoftMinSnr(Weighting):
    """SNR gamma / (SNR + gamma) on x0: the smooth form of min_snr (HDiT, Crowson et al. 2024)."""

    space: str = "x0"
    gamma: PositiveFloat = 5.0

    def weight(self, level: NoiseLevel) -> Tensor:
        return self.gamma / (1 + self.gamma / level.snr)


@WEIGHTINGS.register("p2")
@dataclass(frozen=True, kw_only=True)
class P2(Weighting):
    """1 / (k + SNR)^gamma on eps, with k = gamma = 1 (Choi et al. 2022)."""

    space: str = "eps"
    k: float = 1.0
    gamma: float = 1.0

    def weight(self, level: NoiseLevel) -> Tensor:
        return (self.k + level.snr) ** -self.gamma


@WEIGHTINGS.register("debias")
@dataclass(frozen=True, kw_only=True)
class Debias(Weighting):
    """1 / SNR^power on eps, with power = 1/2 (Debias, eq. 8): undoes the growth of an eps error in x0."""

    space: str = "eps"
    power: float = 0.5

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.snr**-self.power


@WEIGHTINGS.register("edm")
@dataclass(frozen=True, kw_only=True)
class EdmWeight(Weighting):
    """SNR + 1 / sigma_data^2 on x0: 1 under target edm of that sigma_data (Karras et al. 2022, table 1: lambda)."""

    space: str = "x0"
    sigma_data: PositiveFloat = 0.5

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.snr + self.sigma_data**-2


@WEIGHTINGS.register("vlb")
@dataclass(frozen=True, kw_only=True)
class Vlb(Weighting):
    """beta^2 / ((1 - beta)(1 - alpha^2)) on eps: the variational bound (Debias, eq. 5, 13); discrete schedules only."""

    space: str = "eps"

    def weight(self, level: NoiseLevel) -> Tensor:
        if level.beta is None:
            raise UserError(
                "Weighting 'vlb' needs the betas of a discrete schedule, and this schedule is continuous; "
                "choose schedule linear, scaled_linear, cosine or sigmoid, or another weighting."
            )
        return level.beta**2 / ((1 - level.beta) * level.sigma**2)
