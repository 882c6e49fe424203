"""What widely used codes compute under the name of one of the papers' weightings, where it is not that."""

from dataclasses import dataclass

from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.targets import TARGETS, Target
from latentdebias.diffusion.weightings.weighting import WEIGHTINGS, Weighting
from latentdebias.errors import UserError


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
