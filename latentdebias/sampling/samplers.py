"""Samplers: diffusers schedulers set up for any schedule of ours, each asked for a velocity prediction.

On a variance-preserving table the scheduler is handed v, on the flow path eps - x0: both are finite at every noise
level, so one loop serves every target. DDIM and DDPM are the first-order deterministic and stochastic cases of
DPM-Solver++ (Lu et al. 2022, section 4.1 and appendix A), written down so because diffusers' own DDIMScheduler steps
to `t - T // steps`, which is not the next timestep where `steps` does not divide T.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchHeunDiscreteScheduler, HeunDiscreteScheduler
from torch import Tensor

from latentdebias.diffusion import Schedule
from latentdebias.diffusion.schedules import DiscreteSchedule, Flow
from latentdebias.errors import UserError
from latentdebias.registry import Registry

# diffusers' solvers divide by alpha, so a schedule that ends at SNR 0 starts from this alpha^2, as diffusers sets it.
SMALLEST_ALPHA_SQUARED = 2.0**-24


class Sampler(ABC):
    """A way to integrate from noise to data; `scheduler` gives the diffusers object that does it."""

    def scheduler(self, schedule: Schedule) -> Any:
        """A fresh diffusers scheduler for `schedule`; raises `UserError` for one that is neither table nor flow."""
        if isinstance(schedule, DiscreteSchedule):
            return self.on_table(_betas(schedule))
        if isinstance(schedule, Flow):
            return self.on_flow(schedule.shift)
        raise UserError(
            f"{type(schedule).__name__} has no sampler: register a schedule derived from DiscreteSchedule or Flow."
        )

    def step(self, scheduler: Any, v: Tensor, time: Tensor, z: Tensor, generators: list[torch.Generator]) -> Tensor:
        """One step of `scheduler` from z `(B, ...)` at `time`; noise, where there is any, from each row's generator."""
        return scheduler.step(v, time, z).prev_sample

    @abstractmethod
    def on_table(self, betas: list[float]) -> Any:
        """For a variance-preserving table of betas."""

    @abstractmethod
    def on_flow(self, shift: float) -> Any:
        """For the linear path with its resolution shift."""


SAMPLERS: Registry[Sampler] = Registry("sampler")


def velocity_of(schedule: Schedule) -> str:
    """The target that schedulers are asked to integrate on this schedule."""
    return "flow" if isinstance(schedule, Flow) else "v"


def _betas(schedule: DiscreteSchedule) -> list[float]:
    alphas_cumprod = schedule.alphas_cumprod.clamp(min=SMALLEST_ALPHA_SQUARED)
    previous = torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
    return (1 - alphas_cumprod / previous).tolist()


class _DPMSolver(Sampler):
    algorithm_type: str
    order: int

    def step(self, scheduler: Any, v: Tensor, time: Tensor, z: Tensor, generators: list[torch.Generator]) -> Tensor:
        return scheduler.step(v, time, z, generator=generators).prev_sample

    def on_table(self, betas: list[float]) -> Any:
        return DPMSolverMultistepScheduler(
            num_train_timesteps=len(betas),
            trained_betas=betas,
            prediction_type="v_prediction",
            algorithm_type=self.algorithm_type,
            solver_order=self.order,
            timestep_spacing="trailing",
            final_sigmas_type="zero",
        )

    def on_flow(self, shift: float) -> Any:
        return DPMSolverMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift,
            algorithm_type=self.algorithm_type,
            solver_order=self.order,
            final_sigmas_type="zero",
        )


@SAMPLERS.register("ddim")
@dataclass(frozen=True)
class DDIM(_DPMSolver):
    """Deterministic DDIM, eta = 0 (Song et al. 2021); on the flow path it is Euler's method."""

    algorithm_type = "dpmsolver++"
    order = 1


@SAMPLERS.register("ddpm")
@dataclass(frozen=True)
class DDPM(_DPMSolver):
    """Ancestral sampling on the steps chosen, with the posterior's variance (Ho et al. 2020, eq. 7)."""

    algorithm_type = "sde-dpmsolver++"
    order = 1


@SAMPLERS.register("dpmpp")
@dataclass(frozen=True)
class DPMSolverPlusPlus(_DPMSolver):
    """DPM-Solver++ 2M: second order with one network call a step (Lu et al. 2022)."""

    algorithm_type = "dpmsolver++"
    order = 2


@SAMPLERS.register("heun")
@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's second-order method on the probability-flow ODE, two network calls a step (Karras et al. 2022)."""

    def on_table(self, betas: list[float]) -> Any:
        return HeunDiscreteScheduler(
            num_train_timesteps=len(betas),
            trained_betas=betas,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
        )

    def on_flow(self, shift: float) -> Any:
        return FlowMatchHeunDiscreteScheduler(shift=shift)
