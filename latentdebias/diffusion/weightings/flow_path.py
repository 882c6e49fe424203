"""Weightings stated on the flow path alpha = 1 - sigma."""

import math
from dataclasses import dataclass

from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.weightings.weighting import WEIGHTINGS, Weighting


@WEIGHTINGS.register("cosmap")
@dataclass(frozen=True, kw_only=True)
class Cosmap(Weighting):
    """2 / (pi (1 - 2 s + 2 s^2)) on the flow velocity, s = sigma of the flow path (SD3, Esser et al. 2024, sec. 3.1).

    Off the flow path s is that of the level with the same SNR, sigma / (alpha + sigma).
    """

    space: str = "flow"

    def weight(self, level: NoiseLevel) -> Tensor:
        s = level.flow_sigma
        return 2 / (math.pi * (1 - 2 * s + 2 * s**2))


@WEIGHTINGS.register("sigma_sqrt")
@dataclass(frozen=True, kw_only=True)
class SigmaSqrt(Weighting):
    """1 / s^2 on the flow velocity, s = sigma of the flow path, as diffusers' SD3 scheme of this name applies it.

    It would be infinite without noise: below `min_sigma`, the smallest s that diffusers trains, it grows no more.
    """

    space: str = "flow"
    min_sigma: PositiveFloat = 1e-3

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.flow_sigma.clamp(min=self.min_sigma) ** -2
