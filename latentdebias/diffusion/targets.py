"""Prediction targets: the network predicts y = a x0 + b eps, and everything else follows from (a, b).

With z = alpha x0 + sigma eps and det = alpha b - sigma a:

    x0 = (b z - sigma y) / det        eps = (alpha y - a z) / det

and at a fixed z a squared error in y is (det / sigma)^2 times that in x0, (det / alpha)^2 times that in eps.

Each function takes the noise level as tensors that multiply x0, eps, y and z: `()` for one level, or
`NoiseLevel.over_batch` for a level of each row.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.registry import Registry


class Target(ABC):
    """What the network predicts, as the pair of coefficients (a, b) of y = a x0 + b eps."""

    @abstractmethod
    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """The coefficients a and b at a noise level, each in the shape of `level.alpha`, such as `(B,)`."""

    def det(self, level: NoiseLevel) -> Tensor:
        """alpha b - sigma a, shaped as alpha `(B,)`: zero exactly where y says nothing about x0 or eps beyond z."""
        a, b = self.coefficients(level)
        return level.alpha * b - level.sigma * a

    def error_ratio(self, other: "Target", level: NoiseLevel) -> Tensor:
        """The squared error of `other` over that of this target, at a fixed z, in the shape of `level.alpha` `(B,)`."""
        return (other.det(level) / self.det(level)) ** 2

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """The factor on z before the network sees it, in the shape of `level.alpha` `(B,)`; 1 for most targets."""
        return torch.ones_like(level.alpha)

    def of(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """y = a x0 + b eps: `(B, ...)` -> `(B, ...)`."""
        a, b = self.coefficients(level)
        return a * x0 + b * eps

    def to_x0(self, y: Tensor, z: Tensor, level: NoiseLevel) -> Tensor:
        """The x0 that prediction y at z means: `(B, ...)` -> `(B, ...)`."""
        _, b = self.coefficients(level)
        return (b * z - level.sigma * y) / self.det(level)

    def to_eps(self, y: Tensor, z: Tensor, level: NoiseLevel) -> Tensor:
        """The eps that prediction y at z means: `(B, ...)` -> `(B, ...)`."""
        a, _ = self.coefficients(level)
        return (level.alpha * y - a * z) / self.det(level)

    def convert(self, y: Tensor, z: Tensor, level: NoiseLevel, to: "Target") -> Tensor:
        """Prediction y at z, stated as target `to`; y itself where that is this target: `(B, ...)` -> `(B, ...)`."""
        if to == self:
            return y
        a, b = to.coefficients(level)
        return a * self.to_x0(y, z, level) + b * self.to_eps(y, z, level)


TARGETS: Registry[Target] = Registry("target")


@TARGETS.register("eps")
@dataclass(frozen=True)
class Eps(Target):
    """The noise (Ho et al. 2020)."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


@TARGETS.register("x0")
@dataclass(frozen=True)
class X0(Target):
    """The clean latent (Min-SNR, eq. 5)."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.ones_like(level.alpha), torch.zeros_like(level.alpha)


@TARGETS.register("v")
@dataclass(frozen=True)
class V(Target):
    """v = alpha eps - sigma x0 (Salimans & Ho 2022), with the sign that Min-SNR and Debias use."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return -level.sigma, level.alpha


@TARGETS.register("flow")
@dataclass(frozen=True)
class FlowVelocity(Target):
    """eps - x0, the velocity of the linear path (Lipman et al. 2023, Liu et al. 2023)."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(level.alpha), torch.ones_like(level.alpha)


@TARGETS.register("edm")
@dataclass(frozen=True)
class Edm(Target):
    """F of D(x; s) = c_skip(s) x + c_out(s) F(c_in(s) x), EDM's preconditioned denoiser (Karras et al. 2022, eq. 7).

    EDM's x is z / alpha and its noise level s is sigma / alpha. Put into F = (x0 - c_skip x) / c_out (eq. 8, table 1):

        a = sigma / (sigma_data r)    b = -sigma_data alpha / r    r = sqrt(sigma^2 + sigma_data^2 alpha^2)

    and the network sees c_in x = z / r. With sigma_data = 1 on a variance-preserving schedule this is -v, and r = 1.
    """

    sigma_data: PositiveFloat = 0.5

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        scale = self.input_scale(level)
        return level.sigma * scale / self.sigma_data, -self.sigma_data * level.alpha * scale

    def input_scale(self, level: NoiseLevel) -> Tensor:
        return torch.rsqrt(level.sigma**2 + (self.sigma_data * level.alpha) ** 2)
