"""Weightings that are functions of the SNR: those of the two papers, and those they compare with."""

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.weightings.weighting import WEIGHTINGS, Weighting


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
