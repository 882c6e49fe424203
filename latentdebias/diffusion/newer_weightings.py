"""Loss weightings published after the two papers, and what widely used codes compute under these papers' names."""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat
from scipy.optimize import minimize_scalar
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.targets import TARGETS, Target
from latentdebias.diffusion.weightings import WEIGHTINGS, Weighting
from latentdebias.errors import UserError


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


@WEIGHTINGS.register("elbo")
@dataclass(frozen=True, kw_only=True)
class Elbo(Weighting):
    """1 on eps per log SNR: the variational bound of continuous time (VDM, Kingma et al. 2021, arXiv:2107.00630, eq. 17).

    On a discrete schedule d log SNR is a difference over timesteps; `vlb` is the bound of its finitely many steps.
    """

    space: str = "eps"
    per: Literal["t", "log_snr"] = "log_snr"

    def weight(self, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.alpha)


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

    It would be infinite without noise: below `min_sigma`, the smallest s that diffusers trains, it stays what it is there.
    """

    space: str = "flow"
    min_sigma: PositiveFloat = 1e-3

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.flow_sigma.clamp(min=self.min_sigma) ** -2


@WEIGHTINGS.register("kohya_debiased")
@dataclass(frozen=True, kw_only=True)
class KohyaDebiased(Weighting):
    """1 / sqrt(min(SNR, 1000)) under eps and 1 / (SNR + 1) under v: kohya-ss' `--debiased_estimation_loss`.

    The two are different objectives: the second is `constant` on x0, the first caps the SNR of `debias`. `UserError`
    under any other target, for which that code has no formula.
    """

    max_snr: PositiveFloat = 1000.0

    def weight_of_target(self, target: Target, level: NoiseLevel) -> Tensor:
        name = TARGETS.name_of(target)
        if name not in ("eps", "v") or self.space != "target":
            raise UserError(
                f"Weighting 'kohya_debiased' is defined in the space of target eps or v, which that code trains, and "
                f"here target is {name!r} and space {self.space!r}; choose weighting debias, which holds under every "
                f"target."
            )
        level = level.inside()
        weight = 1 / (level.snr + 1) if name == "v" else self.weight(level)
        return weight if self.max_weight is None else weight.clamp(max=self.max_weight)

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.snr.clamp(max=self.max_snr).rsqrt()
