"""DDPM and DDIM: steps of the posterior q(z' | z, x0), with the network's estimate in place of x0.

For a noise level (alpha, sigma) and a less noisy (alpha', sigma'), on any schedule:

    beta = sigma^2 - (alpha / alpha')^2 sigma'^2     the variance of z given z'
    beta_tilde = beta sigma'^2 / sigma^2             the variance of z' given z and x0 (Ho et al. 2020, eq. 7)

Both are written out here because diffusers' DDIMScheduler steps to t - T // steps, which is not the next timestep where
`steps` does not divide T, its DDPMScheduler adds noise after a last timestep above 0, and neither knows a continuous
schedule.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from latentdebias.diffusion import Diffusion, NoiseLevel, Schedule
from latentdebias.diffusion.schedules import Flow
from latentdebias.diffusion.variances import LearnedRange, interpolate
from latentdebias.errors import UserError
from latentdebias.sampling.denoiser import Denoiser, Estimate, Noise
from latentdebias.sampling.samplers import SAMPLERS, Sampler
from latentdebias.sampling.timesteps import Spacing, visited

DATA = NoiseLevel(torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))


@dataclass(frozen=True)
class ReverseStep:
    """A step from noise level `here` to the less noisy `there`, both `()` fp64 on the CPU."""

    here: NoiseLevel
    there: NoiseLevel

    @property
    def beta(self) -> Tensor:
        """The variance of z given z', `()`."""
        return self.here.sigma**2 - (self.here.alpha / self.there.alpha) ** 2 * self.there.sigma**2

    @property
    def beta_tilde(self) -> Tensor:
        """The variance of z' given z and x0, `()`."""
        return self.beta * self.there.sigma**2 / self.here.sigma**2

    def mean(self, z: Tensor, x0: Tensor, variance: Tensor) -> Tensor:
        """alpha' x0 + sqrt(sigma'^2 - variance) eps, with the eps that x0 leaves (Song et al. 2021, eq. 12)."""
        eps = (z - self.here.alpha * x0) / self.here.sigma
        return self.there.alpha * x0 + (self.there.sigma**2 - variance).sqrt() * eps


def reverse_steps(schedule: Schedule, t: Tensor) -> list[ReverseStep]:
    """The steps from each of the timesteps t `(steps,)` to the next, and from the last to the data."""
    visited_levels = [*(schedule.level(each, torch.float64) for each in t), DATA]
    return [ReverseStep(here, there) for here, there in itertools.pairwise(visited_levels)]


@SAMPLERS.register("ddim")
@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021): eta = 0 is deterministic, eta = 1 is DDPM.

    With eta = 0 each step is one of Euler's method on dx/ds = (x - x0) / s of x = z / alpha, s = sigma / alpha (Karras
    et al. 2022), and on the flow path also one on the velocity dz/dt.
    """

    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    spacing: Spacing = "trailing"

    def adds_noise(self) -> bool:
        return self.eta > 0

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        schedule = denoise.diffusion.schedule
        t = visited(schedule, steps, self.spacing)
        z = noise()
        for i, step in enumerate(reverse_steps(schedule, t)):
            variance = self.eta**2 * step.beta_tilde
            z = step.mean(z, denoise(z, t[i], i).x0, variance)
            if variance > 0:
                z = z + variance.sqrt() * noise()
        return z


@SAMPLERS.register("euler")
@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method on the velocity of the flow path; there z + (sigma' - sigma) v is the step of DDIM."""

    def check(self, diffusion: Diffusion, steps: int) -> None:
        super().check(diffusion, steps)
        if not isinstance(diffusion.schedule, Flow):
            raise UserError(
                "Sampler 'euler' integrates the velocity of the flow path, and this model has another schedule; "
                "choose sampler ddim, which is Euler's method there."
            )

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        return DDIM().integrate(denoise, noise, steps)


@SAMPLERS.register("ddpm")
@dataclass(frozen=True, kw_only=True)
class DDPM(Sampler):
    """Ancestral sampling (Ho et al. 2020, algorithm 2) on the timesteps that ADM, DiT and Debias keep.

    `variance` is that of the noise added in a step: beta_tilde (fixed_small), beta (fixed_large) or the network's own
    (learned); None is learned where the network has learned it, else fixed_small. `clip` is the bound to which each
    estimate of x0 is clamped, 1 for pixels, as ADM does; None, for latents, clamps nothing.
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
        schedule = denoise.diffusion.schedule
        t = visited(schedule, steps, self.spacing)
        learned = isinstance(denoise.diffusion.variance, LearnedRange)
        std = STDS[self.variance or ("learned" if learned else "fixed_small")]
        z = noise()
        for i, step in enumerate(reverse_steps(schedule, t)):
            estimate = denoise(z, t[i], i)
            x0 = estimate.x0 if self.clip is None else estimate.x0.clamp(-self.clip, self.clip)
            z = step.mean(z, x0, step.beta_tilde)
            if step.there.sigma > 0:
                z = z + std(step, estimate) * noise()
        return z


def _learned_std(step: ReverseStep, estimate: Estimate) -> Tensor:
    assert estimate.variance is not None, "zero_init is for flow, which has no learned variance"
    return torch.exp(0.5 * interpolate(estimate.variance.double(), step.beta_tilde.log(), step.beta.log()))


STDS: dict[str, Callable[[ReverseStep, Estimate], Tensor]] = {
    "fixed_small": lambda step, estimate: step.beta_tilde.sqrt(),
    "fixed_large": lambda step, estimate: step.beta.sqrt(),
    "learned": _learned_std,
}
