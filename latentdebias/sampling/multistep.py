"""Solvers with one network call a step that keep a history of estimates of x0.

DPM-Solver++ 2M is the step of a diffusers scheduler. The noise levels that such a scheduler computes itself come from a
table in fp32 and, on the flow path, from whole timesteps, so those of the model's schedule replace them. One scheduler
then serves every schedule that preserves variance, and one the flow path. diffusers is imported where the scheduler is
built: that takes seconds, which a run with another sampler need not wait for.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from latentdebias.diffusion import Diffusion, NoiseLevel, Schedule
from latentdebias.diffusion.schedules import Flow
from latentdebias.errors import UserError
from latentdebias.sampling.denoiser import Denoiser, Noise
from latentdebias.sampling.samplers import SAMPLERS, Sampler
from latentdebias.sampling.timesteps import Spacing, visited

# The solvers take log(alpha), so a level of SNR 0 is sampled as alpha^2 = 2^-24, as diffusers sets it.
SMALLEST_ALPHA = 2.0**-12


@dataclass(frozen=True, kw_only=True)
class Multistep(Sampler):
    """A solver in the noise levels of diffusers' schedulers."""

    spacing: Spacing = "trailing"

    def check(self, diffusion: Diffusion, steps: int) -> None:
        super().check(diffusion, steps)
        schedule = diffusion.schedule
        level = schedule.level(schedule.grid(), torch.float64)
        if not isinstance(schedule, Flow) and (level.alpha**2 + level.sigma**2 - 1).abs().max() > 1e-6:
            raise UserError(
                f"{type(schedule).__name__} neither preserves variance nor is the flow path, and this sampler needs "
                f"one of the two; choose sampler ddim, ddpm or heun."
            )

    def sigmas(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The noise levels `(steps + 1,)` fp64 at the timesteps t `(steps,)` and at the data, as diffusers states them.

        They are sigma on the flow path, and sigma / alpha on every other schedule.
        """
        level = schedule.level(t, torch.float64)
        alpha = level.alpha.clamp(min=SMALLEST_ALPHA)
        noisy = 1 - alpha if isinstance(schedule, Flow) else level.sigma / alpha
        return torch.cat([noisy, torch.zeros(1, dtype=torch.float64)])


@SAMPLERS.register("dpmpp")
@dataclass(frozen=True, kw_only=True)
class DPMSolverPlusPlus(Multistep):
    """DPM-Solver++ 2M: second order (Lu et al. 2022)."""

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        from diffusers import DPMSolverMultistepScheduler

        schedule = denoise.diffusion.schedule
        t = visited(schedule, steps, self.spacing)
        scheduler: Any = DPMSolverMultistepScheduler(
            prediction_type="sample",
            algorithm_type="dpmsolver++",
            solver_order=2,
            use_flow_sigmas=isinstance(schedule, Flow),
        )
        scheduler.set_timesteps(steps)
        scheduler.sigmas = self.sigmas(schedule, t)
        scheduler.set_begin_index(0)
        z = noise()
        for i, their_t in enumerate(scheduler.timesteps):
            z = scheduler.step(denoise(z, t[i], i).x0, their_t, z).prev_sample
        return z


SAMPLERS.preset("dpmpp_2m", of="dpmpp")


@SAMPLERS.register("dpmpp_3m")
@dataclass(frozen=True, kw_only=True)
class DPMSolverPlusPlus3M(Sampler):
    """DPM-Solver++ 3M: third order (Lu et al. 2022), from the exact integral of the parabola through three estimates.

    It is written out here because the third-order step of diffusers and of the published code takes half the second
    derivative for the whole, and is of order 2. The third order needs levels evenly spaced in log SNR; on the timesteps
    of a table dpmpp_2m does better.
    """

    spacing: Spacing = "trailing"

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        schedule = denoise.diffusion.schedule
        t = visited(schedule, steps, self.spacing)
        level = schedule.level(t, torch.float64)
        alpha, sigma = level.alpha.clamp(min=SMALLEST_ALPHA), level.sigma
        if isinstance(schedule, Flow):
            sigma = 1 - alpha
        lambda_ = torch.log(alpha / sigma)
        h = torch.diff(lambda_).tolist()
        x0s: list[Tensor] = []
        z = noise()
        for i in range(steps - 1):
            x0s = [denoise(z, t[i], i).x0, *x0s[:2]]
            integral = _integral_of_x0(x0s, h[i::-1])
            z = sigma[i + 1] / sigma[i] * z + level.alpha[i + 1] * integral
        return denoise(z, t[-1], steps - 1).x0


def _integral_of_x0(x0s: list[Tensor], h: list[float]) -> Tensor:
    """The integral of exp(tau - h) p(tau) over tau in [0, h], p the polynomial through `x0s` at 0 and before.

    `x0s` begins with the newest; `h` holds the length of the step to take and of those before it,
    in lambda = log(alpha / sigma).
    """
    moment_0 = -math.expm1(-h[0])
    moment_1 = h[0] - moment_0
    integral = moment_0 * x0s[0]
    if len(x0s) > 1:
        slope = (x0s[0] - x0s[1]) / h[1]
        integral = integral + moment_1 * slope
    if len(x0s) > 2:
        moment_2 = h[0] ** 2 - 2 * moment_1
        older_slope = (x0s[1] - x0s[2]) / h[2]
        integral = integral + (moment_2 + h[1] * moment_1) * (slope - older_slope) / (h[1] + h[2])
    return integral


@SAMPLERS.register("unipc")
@dataclass(frozen=True, kw_only=True)
class UniPC(Multistep):
    """UniPC of order p, which a corrector makes accurate to order p + 1 with no further call (Zhao et al. 2023).

    It is written out here, with B(h) = exp(h) - 1 and the arithmetic of diffusers' UniPCMultistepScheduler: that
    scheduler copies noise levels to the GPU and solves an equation there, and waits for it several times a step.
    """

    order: Literal[1, 2, 3] = 2

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        schedule = denoise.diffusion.schedule
        t = visited(schedule, steps, self.spacing)
        sigmas = self.sigmas(schedule, t)
        alpha = 1 - sigmas if isinstance(schedule, Flow) else 1 / (sigmas**2 + 1) ** 0.5
        levels = NoiseLevel(alpha, sigmas if isinstance(schedule, Flow) else sigmas * alpha)
        x0s: list[Tensor] = []
        z = corrected = noise()
        for i in range(steps):
            x0 = denoise(z, t[i], i).x0
            if x0s:
                step = UniPCStep(levels, i - 1, x0s)
                corrected = step.from_level(corrected, [*step.slopes, x0 - x0s[0]], step.weights_of_corrector())
            x0s = [x0, *x0s][: min(self.order, steps - i)]
            step = UniPCStep(levels, i, x0s)
            z = step.from_level(corrected, step.slopes, step.weights_of_predictor())
        return z


class UniPCStep:
    """A step from level number `here` of `levels` to the next, given estimates of x0 at `here` and at those before it.

    `x0s` begins with the newest estimate. `slopes` are its differences from the others, over their distance in
    lambda = log(alpha / sigma) as a share of the step. Whatever is no image is fp64 on the CPU.
    """

    def __init__(self, levels: NoiseLevel, here: int, x0s: list[Tensor]) -> None:
        lambda_ = torch.log(levels.alpha) - torch.log(levels.sigma)
        self.minus_h = lambda_[here] - lambda_[here + 1]
        self.b = torch.expm1(self.minus_h)
        self.alpha, self.shrink = levels.alpha[here + 1], levels.sigma[here + 1] / levels.sigma[here]
        self.x0 = x0s[0]
        shares = [(lambda_[here - k] - lambda_[here]) / -self.minus_h for k in range(1, len(x0s))]
        self.slopes = [(x0 - x0s[0]) / share for x0, share in zip(x0s[1:], shares, strict=True)]
        self._nodes = torch.stack([*shares, torch.ones((), dtype=torch.float64)])

    def from_level(self, z: Tensor, slopes: list[Tensor], weights: Tensor) -> Tensor:
        """z `(B, C, h, w)` at the next level from z at level `here`; `weights` `(len(slopes),)` are on the CPU."""
        z = self.shrink * z - self.alpha * self.b * self.x0
        if not slopes:
            return z
        return z - self.alpha * self.b * sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))

    def weights_of_predictor(self) -> Tensor:
        """The weights of `slopes`, fp64 `(len(slopes),)`."""
        if len(self.slopes) == 1:
            # The limit of the solution for short steps, which the published code takes for all steps.
            return torch.tensor([0.5], dtype=torch.float64)
        matrix, right = self._equation()
        return torch.linalg.solve(matrix[:-1, :-1], right[:-1])

    def weights_of_corrector(self) -> Tensor:
        """The weights, fp64 `(len(slopes) + 1,)`, of `slopes` and of the difference between the two ends' estimates."""
        return torch.linalg.solve(*self._equation()) if self.slopes else torch.tensor([0.5], dtype=torch.float64)

    def _equation(self) -> tuple[Tensor, Tensor]:
        """The matrix `(order, order)` and the right-hand side `(order,)` whose solution the weights are."""
        powers = torch.stack([self._nodes**k for k in range(len(self._nodes))])
        right, phi, factorial = [], self.b / self.minus_h - 1, 1
        for k in range(1, len(self._nodes) + 1):
            right.append(phi * factorial / self.b)
            factorial *= k + 1
            phi = phi / self.minus_h - 1 / factorial
        return powers, torch.stack(right)
