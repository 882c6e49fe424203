"""Solvers with one network call a step that keep a history of estimates of x0.

DPM-Solver++ 2M and UniPC are steps of diffusers' schedulers. The noise levels that such a scheduler computes itself
come from a table in fp32 and, on the flow path, from whole timesteps, so those of the model's schedule replace them.
One scheduler then serves every schedule that preserves variance, and one the flow path. diffusers is imported where a
scheduler is built: that takes seconds, which a run with another sampler need not wait for.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
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
    """A solver whose steps are those of a diffusers scheduler."""

    spacing: Spacing = "trailing"

    @abstractmethod
    def scheduler(self, use_flow_sigmas: bool) -> Any:
        """A fresh scheduler with prediction_type "sample"."""

    def check(self, diffusion: Diffusion, steps: int) -> None:
        super().check(diffusion, steps)
        schedule = diffusion.schedule
        level = schedule.level(schedule.grid(), torch.float64)
        if not isinstance(schedule, Flow) and (level.alpha**2 + level.sigma**2 - 1).abs().max() > 1e-6:
            raise UserError(
                f"{type(schedule).__name__} neither preserves variance nor is the flow path, and this sampler needs "
                f"one of the two; choose sampler ddim, ddpm or heun."
            )

    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        schedule = denoise.diffusion.schedule
        t = visited(schedule, steps, self.spacing)
        level = schedule.level(t, torch.float64)
        alpha = level.alpha.clamp(min=SMALLEST_ALPHA)
        flow = isinstance(schedule, Flow)
        scheduler = self.scheduler(use_flow_sigmas=flow)
        scheduler.set_timesteps(steps)
        scheduler.sigmas = torch.cat([1 - alpha if flow else level.sigma / alpha, torch.zeros(1, dtype=torch.float64)])
        scheduler.set_begin_index(0)
        z = noise()
        for i, their_t in enumerate(scheduler.timesteps):
            z = scheduler.step(denoise(z, t[i], i).x0, their_t, z).prev_sample
        return z


@SAMPLERS.register("dpmpp")
@dataclass(frozen=True, kw_only=True)
class DPMSolverPlusPlus(Multistep):
    """DPM-Solver++ 2M: second order (Lu et al. 2022)."""

    def scheduler(self, use_flow_sigmas: bool) -> Any:
        from diffusers import DPMSolverMultistepScheduler

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
    """UniPC of order p, which a corrector makes accurate to order p + 1 with no further call (Zhao et al. 2023)."""

    order: Literal[1, 2, 3] = 2

    def scheduler(self, use_flow_sigmas: bool) -> Any:
        from diffusers import UniPCMultistepScheduler

        return UniPCMultistepScheduler(
            prediction_type="sample",
            solver_order=self.order,
            use_flow_sigmas=use_flow_sigmas,
        )
