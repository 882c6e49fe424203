"""Prediction targets: the network predicts y = a x0 + b eps, and everything else follows from (a, b).

With z = alpha x0 + sigma eps and det = alpha b - sigma a:

    x0 = (b z - sigma y) / det        eps = (alpha y - a z) / det

and at a fixed z a squared error in y is (det / sigma)^2 times that in x0, (det / alpha)^2 times that in eps.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
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
