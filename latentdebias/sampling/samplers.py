"""What a sampler is; the samplers themselves are in `ancestral`, `heun` and `multistep`."""

from abc import ABC, abstractmethod

from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.schedules import DiscreteSchedule
from latentdebias.errors import UserError
from latentdebias.registry import Registry
from latentdebias.sampling.denoiser import Denoiser, Noise


class Sampler(ABC):
    """A way to integrate from noise to data."""

    @abstractmethod
    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        """From noise to x0 `(B, ...)`, fp64, in `steps` steps."""

    def nfe(self, steps: int) -> int:
        """Network calls of `steps` steps, a guided one counted as one."""
        return steps

    def adds_noise(self) -> bool:
        """Whether noise is added after the first."""
        return False

    def check(self, diffusion: Diffusion, steps: int) -> None:
        """Raise `UserError` where this sampler cannot draw from `diffusion` in `steps` steps."""
        schedule = diffusion.schedule
        if isinstance(schedule, DiscreteSchedule) and steps > schedule.num_timesteps:
            raise UserError(
                f"steps is {steps}, and the model's schedule has {schedule.num_timesteps}; choose at most that."
            )


SAMPLERS: Registry[Sampler] = Registry("sampler")
