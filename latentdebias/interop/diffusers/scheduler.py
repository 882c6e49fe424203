"""Noise schedules as diffusers' scheduler configs, both ways."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.schedules import DiscreteSchedule, Linear, ScaledLinear, Schedule
from latentdebias.diffusion.targets import TARGETS

PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
TARGETS_OF = {prediction_type: target for target, prediction_type in PREDICTION_TYPES.items()}
BETA_SCHEDULES: dict[str, type[Linear | ScaledLinear]] = {"linear": Linear, "scaled_linear": ScaledLinear}
# diffusers' solvers divide by alpha, so a schedule that ends at SNR 0 ends at this alpha^2, as diffusers sets it.
SMALLEST_ALPHA_SQUARED = 2.0**-24


def scheduler_of(diffusion: Diffusion) -> DPMSolverMultistepScheduler:
    """Our sampler `ddim` for a discrete schedule and target eps, x0 or v, as a scheduler of a diffusers pipeline.

    It is DPM-Solver++ of order 1, which is DDIM: diffusers' own DDIMScheduler misses the timesteps where their number
    does not divide the schedule's. `DDIMScheduler.from_config(pipe.scheduler.config)` makes that one of it.
    """
    assert isinstance(diffusion.schedule, DiscreteSchedule)
    return DPMSolverMultistepScheduler(
        **_betas(diffusion.schedule),
        num_train_timesteps=diffusion.schedule.num_timesteps,
        prediction_type=PREDICTION_TYPES[TARGETS.name_of(diffusion.target)],
        algorithm_type="dpmsolver++",
        solver_order=1,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )


def _betas(schedule: DiscreteSchedule) -> dict[str, Any]:
    name = next((name for name, cls in BETA_SCHEDULES.items() if type(schedule) is cls), None)
    if name is not None and not schedule.zero_terminal_snr:
        ends = dataclasses.asdict(schedule)
        return {"beta_schedule": name, "beta_start": ends["beta_start"], "beta_end": ends["beta_end"]}
    alphas_cumprod = schedule.alphas_cumprod.clamp(min=SMALLEST_ALPHA_SQUARED)
    previous = torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
    return {"trained_betas": (1 - alphas_cumprod / previous).tolist()}


def diffusion_of(config: Mapping[str, Any], variance: str) -> Diffusion:
    """The process of a scheduler's config; `UserError` where `Diffusion.from_diffusers` raises it."""
    scheduler = DDIMScheduler.from_config(dict(config))
    process = Diffusion.from_diffusers(scheduler, variance=variance)
    name, named = config.get("beta_schedule"), not config.get("trained_betas")
    if name in BETA_SCHEDULES and named and not config.get("rescale_betas_zero_snr"):
        known = scheduler.config
        schedule: Schedule = BETA_SCHEDULES[name](
            num_timesteps=known.num_train_timesteps, beta_start=known.beta_start, beta_end=known.beta_end
        )
        return Diffusion(schedule, process.target, variance=variance)
    return process
