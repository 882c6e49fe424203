"""Conversion between our noise schedules and the schedulers of diffusers, in both directions."""

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.schedules import DiscreteSchedule, Linear, ScaledLinear, betas_of
from latentdebias.diffusion.targets import TARGETS

PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
TARGETS_OF = {prediction_type: target for target, prediction_type in PREDICTION_TYPES.items()}
BETA_SCHEDULES: dict[str, type[Linear | ScaledLinear]] = {"linear": Linear, "scaled_linear": ScaledLinear}
# diffusers' solvers divide by alpha, so the end of a schedule with SNR 0 is exported as this alpha^2, the value that
# diffusers itself puts there.
SMALLEST_ALPHA_SQUARED = 2.0**-24


def scheduler_of(diffusion: Diffusion) -> DPMSolverMultistepScheduler:
    """The diffusers scheduler that does what our sampler `ddim` does, for a discrete schedule and target eps, x0 or v.

    It is DPM-Solver++ of order 1, which equals DDIM. diffusers' own DDIMScheduler does not step from one timestep to
    the next where their number does not divide that of the schedule; a user who wants it all the same gets it from
    `DDIMScheduler.from_config(pipe.scheduler.config)`.
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
    """The noise levels of `schedule` as arguments of a diffusers scheduler.

    They are a name and the two end values where diffusers has the schedule, else the table of all betas.
    """
    name = next((name for name, cls in BETA_SCHEDULES.items() if type(schedule) is cls), None)
    if isinstance(schedule, Linear | ScaledLinear) and name and not schedule.zero_terminal_snr:
        start, end = schedule.ends()
        return {"beta_schedule": name, "beta_start": start, "beta_end": end}
    alphas_cumprod = schedule.alphas_cumprod.clamp(min=SMALLEST_ALPHA_SQUARED)
    return {"trained_betas": betas_of(alphas_cumprod).tolist()}


def diffusion_of(config: Mapping[str, Any], variance: str) -> Diffusion:
    """The `Diffusion` that a diffusers scheduler's config describes, with our name of the schedule where we have one.

    Raises `UserError` for a scheduler that `Diffusion.from_diffusers` does not support.
    """
    scheduler = DDIMScheduler.from_config(dict(config))
    process = Diffusion.from_diffusers(scheduler, variance=variance)
    name, named = config.get("beta_schedule"), not config.get("trained_betas")
    if name in BETA_SCHEDULES and named and not config.get("rescale_betas_zero_snr"):
        known = scheduler.config
        schedule = {
            "name": name,
            "num_timesteps": known.num_train_timesteps,
            "beta_start": known.beta_start,
            "beta_end": known.beta_end,
        }
        if name == "linear" and known.num_train_timesteps != 1000:
            schedule["beta_range"] = "diffusers"
        return Diffusion(schedule, process.target, variance=variance)
    return process
