"""What widely used codes compute under the name of one of the papers' weightings, where it is not that.

Each is stated in the space of the network's own target, for target eps and v alone, as these codes have it.
"""

from abc import abstractmethod
from dataclasses import dataclass

from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.targets import TARGETS, Target
from latentdebias.diffusion.weightings.weighting import WEIGHTINGS, Weighting
from latentdebias.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OfEpsOrV(Weighting):
    """Base class of weightings with one formula for target eps and another for v; `UserError` under any other."""

    def weight_of_target(self, target: Target, level: NoiseLevel) -> Tensor:
        name = TARGETS.name_of(target)
        if name not in ("eps", "v") or self.space != "target" or self.per != "t":
            raise UserError(
                f"Weighting {WEIGHTINGS.name_of(self)!r} is what another code computes under target eps or v, by a "
                f"formula of its own, and here target is {name!r}, space {self.space!r} and per {self.per!r}; choose "
                f"weighting debias or min_snr, which hold under every target."
            )
        level = level.inside()
        weight = self.weight_of_v(level) if name == "v" else self.weight(level)
        return weight if self.max_weight is None else weight.clamp(max=self.max_weight)

    @abstractmethod
    def weight_of_v(self, level: NoiseLevel) -> Tensor:
        """The weight on the squared error of v: `(B,)`; that on eps is `weight`."""


@dataclass(frozen=True, kw_only=True)
class CappedDebias(OfEpsOrV):
    """Base class of weightings that are `debias` under eps with the SNR capped, 1 / sqrt(min(SNR, max_snr))."""

    max_snr: PositiveFloat = 1000.0

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.snr.clamp(max=self.max_snr).rsqrt()


@WEIGHTINGS.register("kohya_debiased")
@dataclass(frozen=True, kw_only=True)
class KohyaDebiased(CappedDebias):
    """1 / sqrt(min(SNR, 1000)) under eps and 1 / (SNR + 1) under v: kohya-ss' `--debiased_estimation_loss`.

    The two are different objectives: the second is `constant` on x0, the first caps the SNR of `debias`. That code caps
    the SNR under v as well, which matters at the first few timesteps alone: `v_max_snr: 1000` does so here.
    """

    v_max_snr: PositiveFloat | None = None

    def weight_of_v(self, level: NoiseLevel) -> Tensor:
        snr = level.snr if self.v_max_snr is None else level.snr.clamp(max=self.v_max_snr)
        return 1 / (snr + 1)


@WEIGHTINGS.register("onetrainer_debiased")
@dataclass(frozen=True, kw_only=True)
class OneTrainerDebiased(CappedDebias):
    """1 / sqrt(min(SNR, 1000)) under eps and 1 / sqrt(min(SNR, 1000) + 1) under v: OneTrainer's DEBIASED_ESTIMATION."""

    def weight_of_v(self, level: NoiseLevel) -> Tensor:
        return (level.snr.clamp(max=self.max_snr) + 1).rsqrt()


@WEIGHTINGS.register("min_snr_over_snr")
@dataclass(frozen=True, kw_only=True)
class MinSnrOverSnr(OfEpsOrV):
    """min(SNR, gamma) / SNR under eps and under v alike: the code of Min-SNR, whose paper has SNR + 1 under v."""

    gamma: PositiveFloat = 5.0

    def weight(self, level: NoiseLevel) -> Tensor:
        return level.snr.clamp(max=self.gamma) / level.snr

    def weight_of_v(self, level: NoiseLevel) -> Tensor:
        return self.weight(level)
