"""Prediction targets: the network predicts y = a x0 + b eps, and everything else follows from (a, b).

With z = alpha x0 + sigma eps and det = alpha b - sigma a:

    x0 = (b z - sigma y) / det        eps = (alpha y - a z) / det

and at a fixed z a squared error in y is (det / sigma)^2 times that in x0, (det / alpha)^2 times that in eps.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.registry import Registry


class Target(ABC):
    """What the network predicts, as the pair of coefficients (a, b) of y = a x0 + b eps."""

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) at a noise level; shapes as given."""

    def det(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """alpha b - sigma a: zero exactly where y says nothing about x0 or eps beyond z."""
        a, b = self.coefficients(alpha, sigma)
        return alpha * b - sigma * a

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What z is multiplied by before the network sees it; shapes as given."""
        return torch.ones_like(alpha)

    def of(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        a, b = self.coefficients(alpha, sigma)
        return a * x0 + b * eps

    def to_x0(self, y: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _, b = self.coefficients(alpha, sigma)
        return (b * z - sigma * y) / self.det(alpha, sigma)

    def to_eps(self, y: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        a, _ = self.coefficients(alpha, sigma)
        return (alpha * y - a * z) / self.det(alpha, sigma)

    def convert(self, y: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, to: "Target") -> Tensor:
        """The same prediction as target `to` would state it; y itself where that is this target."""
        if to == self:
            return y
        a, b = to.coefficients(alpha, sigma)
        return a * self.to_x0(y, z, alpha, sigma) + b * self.to_eps(y, z, alpha, sigma)


TARGETS: Registry[Target] = Registry("target")


@TARGETS.register("eps")
@dataclass(frozen=True)
class Eps(Target):
    """The noise (Ho et al. 2020)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha)


@TARGETS.register("x0")
@dataclass(frozen=True)
class X0(Target):
    """The clean latent (Min-SNR, eq. 5)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), torch.zeros_like(alpha)


@TARGETS.register("v")
@dataclass(frozen=True)
class V(Target):
    """v = alpha eps - sigma x0 (Salimans & Ho 2022), with the sign that both papers use."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -sigma, alpha


@TARGETS.register("flow")
@dataclass(frozen=True)
class FlowVelocity(Target):
    """eps - x0, the velocity of the linear path (Lipman et al. 2023, Liu et al. 2023)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(alpha), torch.ones_like(alpha)


@TARGETS.register("edm")
@dataclass(frozen=True)
class Edm(Target):
    """F of D(x; s) = c_skip(s) x + c_out(s) F(c_in(s) x), EDM's preconditioned denoiser (Karras et al. 2022, eq. 7).

    EDM's x is z / alpha and its noise level s is sigma / alpha. Put into F = (x0 - c_skip x) / c_out (eq. 8, table 1):

        a = sigma / (sigma_data r)    b = -sigma_data alpha / r    r = sqrt(sigma^2 + sigma_data^2 alpha^2)

    and the network sees c_in x = z / r. With sigma_data = 1 on a variance-preserving schedule this is -v, and r = 1.
    """

    sigma_data: PositiveFloat = 0.5

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.input_scale(alpha, sigma)
        return sigma * scale / self.sigma_data, -self.sigma_data * alpha * scale

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.rsqrt(sigma**2 + (self.sigma_data * alpha) ** 2)
