"""The interface of samplers and their registry; the samplers themselves are in `ancestral`, `heun` and `multistep`."""

from abc import ABC, abstractmethod

from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.schedules import DiscreteSchedule
from latentdebias.errors import UserError
from latentdebias.registry import Registry
from latentdebias.sampling.denoiser import Denoiser, Noise


class Sampler(ABC):
    """A method of integrating from noise to data."""

    @abstractmethod
    def integrate(self, denoise: Denoiser, noise: Noise, steps: int) -> Tensor:
        """Images x0 `(B, ...)`, fp64, drawn in `steps` steps from noise that `noise()` gives."""

    def nfe(self, steps: int) -> int:
        """The number of network calls in `steps` steps, a guided call counted as one."""
        return steps

    def adds_noise(self) -> bool:
        """Whether noise is added on the way, after that from which the trajectory starts."""
        return False

    def check(self, diffusion: Diffusion, steps: int) -> None:
        """Raise `UserError` where this sampler cannot draw from `diffusion` in `steps` steps."""
        schedule = diffusion.schedule
        if isinstance(schedule, DiscreteSchedule) and steps > schedule.num_timesteps:
            raise UserError(
                f"steps is {steps}, and the model's schedule has {schedule.num_timesteps}; choose at most that."
            )


SAMPLERS: Registry[Sampler] = Registry("sampler")
