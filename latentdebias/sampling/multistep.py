"""Solvers with one network call a step, by diffusers' schedulers: each is handed x0 at exactly our noise levels.

A scheduler's own levels come from a table in fp32 and, on the flow path, whole timesteps; ours replace them. So one
scheduler serves every schedule that preserves variance, and one the flow path.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.schedules import Flow
from latentdebias.errors import UserError
from latentdebias.sampling.denoiser import Denoiser, Noise
from latentdebias.sampling.samplers import SAMPLERS, Sampler
from latentdebias.sampling.timesteps import Spacing, visited

# The solvers take log(alpha), so a level of SNR 0 is sampled as alpha^2 = 2^-24, as diffusers sets it.
SMALLEST_ALPHA = 2.0**-12


@dataclass(frozen=True, kw_only=True)
class Multistep(Sampler):
    """A diffusers scheduler that takes x0 and keeps a history of it."""

    spacing: Spacing = "trailing"

    @abstractmethod
    def scheduler(self, use_flow_sigmas: bool) -> Any:
        """A fresh scheduler with prediction_type "sample"."""

    def check(self, diffusion: Diffusion, steps: int) -> None:
        super().check(diffusion, steps)
        schedule = diffusion.schedule
        alpha, sigma = schedule.alpha_sigma(schedule.grid(), torch.float64)
        if not isinstance(schedule, Flow) and (alpha**2 + sigma**2 - 1).abs().max() > 1e-6:
            raise UserError(
                f"{type(schedule).__name__} neither preserves variance nor is the flow path, and this sampler needs "
                f"one of the two; choose sampler ddim, ddpm or heun."
            )

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        schedule = denoise.diffusion.schedule
        t = visited(schedule, steps, self.spacing)
        alpha, sigma = schedule.alpha_sigma(t, torch.float64)
        alpha = alpha.clamp(min=SMALLEST_ALPHA)
        flow = isinstance(schedule, Flow)
        scheduler = self.scheduler(use_flow_sigmas=flow)
        scheduler.set_timesteps(steps)
        scheduler.sigmas = torch.cat([1 - alpha if flow else sigma / alpha, torch.zeros(1, dtype=torch.float64)])
        scheduler.set_begin_index(0)
        z = noise()
        for i, time in enumerate(scheduler.timesteps):
            z = scheduler.step(denoise(z, t[i], i).x0, time, z).prev_sample
        return z


@SAMPLERS.register("dpmpp")
@dataclass(frozen=True, kw_only=True)
class DPMSolverPlusPlus(Multistep):
    """DPM-Solver++ 2M: second order (Lu et al. 2022)."""

    def scheduler(self, use_flow_sigmas: bool) -> Any:
        return DPMSolverMultistepScheduler(
            prediction_type="sample",
            algorithm_type="dpmsolver++",
            solver_order=2,
            use_flow_sigmas=use_flow_sigmas,
        )


SAMPLERS.preset("dpmpp_2m", of="dpmpp")


@SAMPLERS.register("dpmpp_3m")
@dataclass(frozen=True, kw_only=True)
class DPMSolverPlusPlus3M(Sampler):
    """DPM-Solver++ 3M: third order (Lu et al. 2022), from the exact integral of the parabola through three estimates.

    It is our own: the third-order step of diffusers and of the published code takes half the second derivative for the
    whole, and is of order 2. Its order needs levels that are even in log SNR; on a table's timesteps 2M does better.
    """

    spacing: Spacing = "trailing"

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        schedule = denoise.diffusion.schedule
        t = visited(schedule, steps, self.spacing)
        alpha, sigma = schedule.alpha_sigma(t, torch.float64)
        if isinstance(schedule, Flow):
            sigma = 1 - alpha.clamp(min=SMALLEST_ALPHA)
        lambda_ = torch.log(alpha.clamp(min=SMALLEST_ALPHA) / sigma)
        h = torch.diff(lambda_).tolist()
        x0s: list[Tensor] = []
        z = noise()
        for i in range(steps - 1):
            x0s = [denoise(z, t[i], i).x0, *x0s[:2]]
            integral = _integral_of_x0(x0s, h[i::-1])
            z = sigma[i + 1] / sigma[i] * z + alpha[i + 1] * integral
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
    """UniPC of `order` p, whose corrector makes it accurate to order p + 1 at no further call (Zhao et al. 2023)."""

    order: Literal[1, 2, 3] = 2

    def scheduler(self, use_flow_sigmas: bool) -> Any:
        return UniPCMultistepScheduler(
            prediction_type="sample",
            solver_order=self.order,
            use_flow_sigmas=use_flow_sigmas,
        )


@SAMPLERS.register("euler")
@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method on the flow path; our own line, for diffusers' step rounds the state to fp32."""

    def check(self, diffusion: Diffusion, steps: int) -> None:
        super().check(diffusion, steps)
        if not isinstance(diffusion.schedule, Flow):
            raise UserError(
                "Sampler 'euler' integrates the velocity of the flow path, and this model has another schedule; "
                "choose sampler ddim, which is Euler's method there."
            )

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        schedule = denoise.diffusion.schedule
        t = visited(schedule, steps)
        sigma = schedule.alpha_sigma(t, torch.float64)[1]
        ends = [*sigma.tolist(), 0.0]
        z = noise()
        for i in range(steps):
            velocity = (z - denoise(z, t[i], i).x0) / ends[i]
            z = z + (ends[i + 1] - ends[i]) * velocity
        return z
