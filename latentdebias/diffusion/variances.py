"""Variances of the reverse step: fixed, or learned by the network in a second set of output channels.

Learned variance (Nichol & Dhariwal 2021) is trained by the variational bound of one reverse step,

    L_t = KL( q(z_{t-1} | z_t, x0) || N(mean, exp(log_variance)) )      t > 0
    L_0 = -log p(x0 | z_0)                                              the discretised Gaussian of Ho et al. 2020

in bits per dimension, in which the mean passes no gradient.
"""

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.broadcasting import over_batch
from latentdebias.diffusion.schedules import DiscreteSchedule, Schedule, betas_of, previous_of
from latentdebias.errors import UserError
from latentdebias.registry import Registry

# An 8-bit image in [-1, 1] has bins of 2 / 255; x0 beyond the last ones counts as the whole tail.
HALF_BIN = 1 / 255
EDGE = 0.999
SMALLEST_PROBABILITY = 1e-12


class Variance(ABC):
    """What the network says about the variance of a reverse step, in `outputs * C` channels for the C of z."""

    outputs: ClassVar[int]

    def split(self, output: Tensor, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """A network's output `(B, outputs * C, ...)` as its prediction and its variance values, each `(B, C, ...)`.

        `like` is z `(B, C, ...)`. The values are None where the variance is fixed. Raises `UserError` for an output of
        another number of channels.
        """
        expected = self.outputs * like.shape[1]
        if output.shape[1] != expected:
            raise UserError(
                f"The network answers in {output.shape[1]} channels, and this variance calls for {expected}: "
                f"{self.outputs} for each of the {like.shape[1]} of z. Build the network with out_chans={expected}, or "
                f"choose variance fixed (one a channel) or learned_range (two)."
            )
        prediction, *values = output.chunk(self.outputs, dim=1)
        return prediction, values[0] if values else None

    @abstractmethod
    def check(self, schedule: Schedule) -> None:
        """Raise `UserError` for a schedule on which this variance means nothing."""

    @abstractmethod
    def bound(self, schedule: Schedule, values: Tensor | None, x0: Tensor, x0_hat: Tensor, t: Tensor) -> Tensor:
        """The term that the loss adds for the variance, given the network's values and its estimate of x0: `(B,)`."""


VARIANCES: Registry[Variance] = Registry("variance")


@VARIANCES.register("fixed")
@dataclass(frozen=True)
class Fixed(Variance):
    """Nothing is learned: the sampler chooses between beta and its posterior (Ho et al. 2020)."""

    outputs: ClassVar[int] = 1

    def check(self, schedule: Schedule) -> None:
        pass

    def bound(self, schedule: Schedule, values: Tensor | None, x0: Tensor, x0_hat: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(len(x0), device=x0.device)


@VARIANCES.register("learned_range")
@dataclass(frozen=True)
class LearnedRange(Variance):
    """log variance = r log beta + (1 - r) log beta_tilde, r = (values + 1) / 2 (Nichol & Dhariwal 2021, eq. 15).

    The bound is multiplied by `bound_weight` T, so that a uniformly drawn t gives L_simple + 0.001 L_vlb (eq. 16), as
    ADM, DiT and Debias train. At t = 0 latents are scored like 8-bit pixels in [-1, 1], as in those codes.
    """

    bound_weight: PositiveFloat = 0.001
    outputs: ClassVar[int] = 2

    def check(self, schedule: Schedule) -> None:
        if not isinstance(schedule, DiscreteSchedule):
            raise UserError(
                "Variance 'learned_range' lies between the two variances of a discrete reverse step, and this schedule "
                "is continuous; choose schedule linear, scaled_linear, cosine or sigmoid, or variance fixed."
            )

    def bound(self, schedule: Schedule, values: Tensor | None, x0: Tensor, x0_hat: Tensor, t: Tensor) -> Tensor:
        assert isinstance(schedule, DiscreteSchedule)
        assert values is not None
        step = reverse_step(schedule, x0.device, x0.dtype)
        mean_x0, log_small, log_large = (over_batch(table[t.long()], x0) for table in step)
        log_variance = interpolate(values.to(x0.dtype), log_small, log_large)
        x0_hat = x0_hat.detach()
        # Both means are the same function of z and x0, so they differ by their shares of x0 alone.
        kl = normal_kl(mean_x0 * (x0 - x0_hat), log_small, log_variance)
        likelihood = discretized_gaussian_log_likelihood(x0, x0_hat, 0.5 * log_variance)
        bits = torch.where(over_batch(t.long() == 0, x0), -likelihood, kl) / math.log(2)
        return self.bound_weight * schedule.num_timesteps * bits.flatten(1).mean(dim=1)


def interpolate(values: Tensor, log_small: Tensor, log_large: Tensor) -> Tensor:
    """The log variance that network values in [-1, 1] mean between the two bounds (Nichol & Dhariwal 2021, eq. 15)."""
    share = (values + 1) / 2
    return share * log_large + (1 - share) * log_small


@functools.lru_cache(maxsize=16)
def reverse_step(schedule: DiscreteSchedule, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The factor of x0 in the posterior mean, log beta_tilde and log beta of each step (Ho et al. 2020, eq. 7): `(T,)`.

    beta_tilde is 0 at t = 0, so the value at t = 1 stands there, as in the published codes.
    """
    alphas_cumprod = schedule.alphas_cumprod
    previous, beta = previous_of(alphas_cumprod), betas_of(alphas_cumprod)
    mean_x0 = previous.sqrt() * beta / (1 - alphas_cumprod)
    beta_tilde = beta * (1 - previous) / (1 - alphas_cumprod)
    beta_tilde[0] = beta_tilde[min(1, len(beta) - 1)]
    return mean_x0.to(device, dtype), beta_tilde.log().to(device, dtype), beta.log().to(device, dtype)


def normal_kl(mean_difference: Tensor, log_variance: Tensor, log_variance_hat: Tensor) -> Tensor:
    """KL between two normals whose means are `mean_difference` apart, by element, in nats."""
    ratio = log_variance - log_variance_hat
    return 0.5 * (ratio.exp() - ratio - 1 + mean_difference**2 * (-log_variance_hat).exp())


def discretized_gaussian_log_likelihood(x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log of the mass that N(mean, std^2) puts on the 8-bit bin of x0 in [-1, 1], in nats (Ho et al. 2020, eq. 13).

    The normal cdf is exact here; the codes of ADM, DiT and Debias take its tanh approximation. Measured at t = 0 of
    schedule linear, on normal latents and on 8-bit pixels, as the norm of the difference in the bound's gradient with
    respect to the variance values: 0.05% where x0_hat errs by 0.3 sigma, 0.24 to 0.32% by 0.5 sigma, 1.1 to 1.8% by
    0.7 sigma, 6 to 8% by 1 sigma, which is an untrained network of target eps or v, and 24 to 58% for an untrained one
    of target x0. The values of the bound differ by 0.15% at most. Every other timestep, 999 of 1000, has no
    such term.
    """
    inverse_std, centred = (-log_std).exp(), x0 - mean
    below_upper = torch.special.ndtr(inverse_std * (centred + HALF_BIN))
    below_lower = torch.special.ndtr(inverse_std * (centred - HALF_BIN))
    mass = torch.where(x0 < -EDGE, below_upper, torch.where(x0 > EDGE, 1 - below_lower, below_upper - below_lower))
    return mass.clamp(min=SMALLEST_PROBABILITY).log()
