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

from latentdebias.diffusion.targets import TARGETS, Target
from latentdebias.errors import UserError
from latentdebias.registry import Registry

# SNR is kept inside these bounds, so that a limit such as SNR * 1/sqrt(SNR) -> 0 comes out as a number.
SMALLEST_ALPHA = 1e-12
SMALLEST_SIGMA = 1e-12


@dataclass(frozen=True)
class NoiseLevel:
    """alpha and sigma `(B,)`, and the forward step's variance beta `(B,)` where the schedule is discrete."""

    alpha: Tensor
    sigma: Tensor
    beta: Tensor | None = None

    @property
    def snr(self) -> Tensor:
        """alpha^2 / sigma^2."""
        return (self.alpha / self.sigma) ** 2


def noise_level(alpha: Tensor, sigma: Tensor) -> NoiseLevel:
    """A noise level with both ends kept off zero."""
    return NoiseLevel(alpha.clamp(min=SMALLEST_ALPHA), sigma.clamp(min=SMALLEST_SIGMA))


def noise_levels_of_table(alpha: Tensor, sigma: Tensor) -> NoiseLevel:
    """The levels of a whole discrete schedule `(T,)`, with its betas."""
    level = noise_level(alpha, sigma)
    alphas_cumprod = level.alpha**2
    previous = torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
    return NoiseLevel(level.alpha, level.sigma, beta=1 - alphas_cumprod / previous)


@dataclass(frozen=True, kw_only=True)
class Weighting(ABC):
    """A loss weighting.

    `space` is the space that the formula is stated in ("target": whatever the network predicts); `max_weight` caps
    the weight in the target's space; `normalize: mean` scales it so that its mean over the timestep sampler is 1.
    """

    space: str = "target"
    max_weight: PositiveFloat | None = None
    normalize: Literal["mean"] | None = None

    @abstractmethod
    def weight(self, level: NoiseLevel) -> Tensor:
        """w in `space`: `(B,)`."""

    def weight_of_target(self, target: Target, level: NoiseLevel) -> Tensor:
        """w in the space of `target`, capped at `max_weight`: `(B,)`."""
        weight = self.weight(level)
        if self.space != "target":
            stated = TARGETS.build(self.space)
            ratio = stated.det(level.alpha, level.sigma) / target.det(level.alpha, level.sigma)
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
