"""The reverse step's variance: fixed, or a second set of output channels that the network learns.

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
    """What the network says about the variance of a reverse step; it answers in `outputs * C` channels."""

    outputs: ClassVar[int]

    def split(self, output: Tensor, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's output `(B, outputs C, ...)` as prediction `(B, C, ...)` and variance values, if it has any.

        Raises `UserError` where the output has other channels than z, `like` `(B, C, ...)`, calls for.
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
        """The term that the loss adds for the variance, given what the network takes x0 for: `(B,)`."""


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

    Its bound is scaled by `bound_weight` T, with which a uniformly drawn t gives L_simple + 0.001 L_vlb (eq. 16); ADM,
    DiT and Debias train so. At t = 0 latents are scored like pixels in [-1, 1], as those codes do.
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
    """x0's share in the posterior mean, log beta_tilde and log beta of each step: `(T,)` (Ho et al. 2020, eq. 7).

    beta_tilde is 0 at t = 0; its log is taken from t = 1 there, as in the published codes.
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
    """log of the mass that N(mean, std^2) puts on the 8-bit bin of x0 in [-1, 1], in nats (Ho et al. 2020, eq. 13)."""
    inverse_std, centred = (-log_std).exp(), x0 - mean
    below_upper = torch.special.ndtr(inverse_std * (centred + HALF_BIN))
    below_lower = torch.special.ndtr(inverse_std * (centred - HALF_BIN))
    mass = torch.where(x0 < -EDGE, below_upper, torch.where(x0 > EDGE, 1 - below_lower, below_upper - below_lower))
    return mass.clamp(min=SMALLEST_PROBABILITY).log()
