"""DDPM and DDIM: steps of the posterior q(z' | z, x0), with the estimate in place of x0.

For levels (alpha, sigma) and a less noisy (alpha', sigma'), on any schedule:

    beta = sigma^2 - (alpha / alpha')^2 sigma'^2     the variance of z given z'
    beta_tilde = beta sigma'^2 / sigma^2             that of z' given z and x0 (Ho et al. 2020, eq. 7)

They are our own: diffusers' DDIMScheduler steps to t - T // steps, which is not the next timestep where `steps` does
not divide T; its DDPMScheduler adds noise after a last timestep above 0; and neither knows a continuous schedule.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.variances import LearnedRange, interpolate
from latentdebias.errors import UserError
from latentdebias.sampling.denoiser import Denoiser, Estimate, Noise
from latentdebias.sampling.samplers import SAMPLERS, Sampler
from latentdebias.sampling.timesteps import Spacing, levels, visited


@dataclass(frozen=True)
class ReverseStep:
    """From one noise level to the next."""

    alpha: float
    sigma: float
    next_alpha: float
    next_sigma: float

    @property
    def beta(self) -> float:
        return self.sigma**2 - (self.alpha / self.next_alpha) ** 2 * self.next_sigma**2

    @property
    def beta_tilde(self) -> float:
        return self.beta * self.next_sigma**2 / self.sigma**2

    def mean(self, z: Tensor, x0: Tensor, variance: float) -> Tensor:
        """alpha' x0 + sqrt(sigma'^2 - variance) eps, with the eps that x0 leaves (Song et al. 2021, eq. 12)."""
        eps = (z - self.alpha * x0) / self.sigma
        return self.next_alpha * x0 + (self.next_sigma**2 - variance) ** 0.5 * eps


def reverse_steps(denoise: Denoiser, t: Tensor) -> list[ReverseStep]:
    """The steps between timesteps `t` and on to the data."""
    at = levels(denoise.diffusion.schedule, t)
    return [ReverseStep(*here, *there) for here, there in itertools.pairwise(at)]


@SAMPLERS.register("ddim")
@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021): eta = 0 is deterministic, and Euler's method on the flow path; eta = 1 is DDPM."""

    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    spacing: Spacing = "trailing"

    def adds_noise(self) -> bool:
        return self.eta > 0

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        t = visited(denoise.diffusion.schedule, steps, self.spacing)
        z = noise()
        for i, step in enumerate(reverse_steps(denoise, t)):
            variance = self.eta**2 * step.beta_tilde
            z = step.mean(z, denoise(z, t[i], i).x0, variance)
            if variance:
                z = z + variance**0.5 * noise()
        return z


@SAMPLERS.register("ddpm")
@dataclass(frozen=True, kw_only=True)
class DDPM(Sampler):
    """Ancestral sampling on the timesteps chosen, respaced as ADM, DiT and Debias do (Ho et al. 2020, algorithm 2).

    variance: beta_tilde (fixed_small), beta (fixed_large) or the network's (learned); null is learned where the network
    has learned it, else fixed_small. clip: the bound to which estimates of x0 are clamped, 1 for pixels, as ADM does;
    latents have none.
    """

    variance: Literal["fixed_small", "fixed_large", "learned"] | None = None
    spacing: Spacing = "linspace"
    clip: PositiveFloat | None = None

    def adds_noise(self) -> bool:
        return True

    def check(self, diffusion: Diffusion, steps: int) -> None:
        super().check(diffusion, steps)
        if self.variance == "learned" and not isinstance(diffusion.variance, LearnedRange):
            raise UserError(
                "Sampler ddpm is asked for variance 'learned', and this model was trained with a fixed variance; "
                "choose fixed_small or fixed_large, or train with diffusion.variance=learned_range."
            )

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        t = visited(denoise.diffusion.schedule, steps, self.spacing)
        learned = isinstance(denoise.diffusion.variance, LearnedRange)
        std = STDS[self.variance or ("learned" if learned else "fixed_small")]
        z = noise()
        for i, step in enumerate(reverse_steps(denoise, t)):
            estimate = denoise(z, t[i], i)
            x0 = estimate.x0 if self.clip is None else estimate.x0.clamp(-self.clip, self.clip)
            z = step.mean(z, x0, step.beta_tilde)
            if step.next_sigma:
                z = z + std(step, estimate) * noise()
        return z


def _learned_std(step: ReverseStep, estimate: Estimate) -> float | Tensor:
    assert estimate.variance is not None, "zero_init is for flow, which has no learned variance"
    bounds = torch.tensor([step.beta_tilde, step.beta], dtype=torch.float64).log()
    return torch.exp(0.5 * interpolate(estimate.variance.double(), bounds[0], bounds[1]))


STDS: dict[str, Callable[[ReverseStep, Estimate], float | Tensor]] = {
    "fixed_small": lambda step, estimate: step.beta_tilde**0.5,
    "fixed_large": lambda step, estimate: step.beta**0.5,
    "learned": _learned_std,
}
