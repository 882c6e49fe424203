"""Weightings from the bound on the likelihood, and those stated per log SNR beside it."""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat
from scipy.optimize import minimize_scalar
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.weightings.weighting import WEIGHTINGS, Weighting
from latentdebias.errors import UserError


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


@WEIGHTINGS.register("elbo")
@dataclass(frozen=True, kw_only=True)
class Elbo(Weighting):
    """1 on eps per log SNR: the variational bound of continuous time (Kingma et al. 2021, arXiv:2107.00630, eq. 17).

    On a discrete schedule d log SNR is a difference between timesteps.
    """

    space: str = "eps"
    per: Literal["t", "log_snr"] = "log_snr"

    def weight(self, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.alpha)


@WEIGHTINGS.register("sigmoid")
@dataclass(frozen=True, kw_only=True)
class SigmoidWeight(Weighting):
    """sigmoid(b - log SNR) on eps (Kingma & Gao 2023, arXiv:2303.00848): `soft_min_snr` with gamma = e^b.

    In the paper, and in SiD2 (Hoogeboom et al. 2024, arXiv:2410.19324), it is a weight per log SNR: `per: log_snr`.
    """

    space: str = "eps"
    b: float = 2.0

    def weight(self, level: NoiseLevel) -> Tensor:
        return torch.sigmoid(self.b - level.log_snr)


@WEIGHTINGS.register("edm")
@dataclass(frozen=True, kw_only=True)
class EdmWeight(Weighting):
    """SNR + 1 / sigma_data^2 on x0: 1 under target edm of that sigma_data (Karras et al. 2022, table 1: lambda)."""

    space: str = "x0"
    sigma_data: PositiveFloat = 0.5

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.snr + self.sigma_data**-2


@WEIGHTINGS.register("edm_monotonic")
@dataclass(frozen=True, kw_only=True)
class EdmMonotonic(Weighting):
    """EDM's weight and density as one weight per log SNR, held at its peak for smaller SNR (Kingma & Gao 2023, sec. 5).

    w = N(log SNR; -2 mean, (2 std)^2) (1 + 1 / (sigma_data^2 SNR)) on eps, with ln(sigma / alpha) normal of `mean` and
    `std`. A weight that never grows with log SNR makes the loss a bound on the likelihood of augmented data.
    """

    space: str = "eps"
    per: Literal["t", "log_snr"] = "log_snr"
    mean: float = -1.2
    std: PositiveFloat = 1.2
    sigma_data: PositiveFloat = 0.5

    @functools.cached_property
    def _peak(self) -> float:
        """The log SNR of the largest weight, at most the density's own mean."""

        def negative(log_snr: float) -> float:
            return -float(self._log_weight(torch.tensor(log_snr, dtype=torch.float64)))

        mean = -2 * self.mean
        return float(minimize_scalar(negative, bounds=(mean - 16 * self.std, mean), method="bounded").x)

    def _log_weight(self, log_snr: Tensor) -> Tensor:
        normal = -((log_snr + 2 * self.mean) ** 2) / (8 * self.std**2) - math.log(2 * self.std * math.sqrt(2 * math.pi))
        return normal + torch.log1p(torch.exp(-log_snr) / self.sigma_data**2)

    def weight(self, level: NoiseLevel) -> Tensor:
        return self._log_weight(level.log_snr.clamp(min=self._peak)).exp()
