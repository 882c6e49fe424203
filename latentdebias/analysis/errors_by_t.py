"""The squared error of a trained network at a timestep, image by image, and the mean of it with its interval."""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.pareto.bins import Latents, target_errors
from latentdebias.diffusion.schedules import DiscreteSchedule
from latentdebias.evaluation.protocol.intervals import QUANTILE
from latentdebias.models.model_directory import LoadedModel


@dataclass(frozen=True)
class Mean:
    """A mean over images, and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Tensor) -> "Mean":
        """The mean of `values` (N,), one an image, plus and minus 1.96 standard errors; N is at least 2."""
        return cls.about(values.mean().item(), (values.std() / len(values) ** 0.5).item())

    @classmethod
    def about(cls, value: float, error: float) -> "Mean":
        """A mean and its interval, from its standard error."""
        return cls(value, value - QUANTILE * error, value + QUANTILE * error)

    def times(self, factor: float) -> "Mean":
        """The mean and the interval multiplied by `factor`."""
        return Mean(self.value * factor, self.low * factor, self.high * factor)


@torch.no_grad()
def errors_at(model: LoadedModel, latents: Latents, t: Tensor, batch_size: int) -> Tensor:
    """`target_errors` of all latents at one timestep t (), with no gradients: (N,) fp64, on the CPU."""
    parts = [target_errors(model, part, t.expand(len(part))) for part in latents.chunks(batch_size)]
    return torch.cat(parts).cpu()


def x0_estimate(model: LoadedModel, latents: Latents, t: Tensor) -> Tensor:
    """The x0 that the network estimates in one call from z_t, at one timestep t (): (B, C, h, w) fp64."""
    diffusion, times = model.diffusion, t.expand(len(latents))
    z = diffusion.add_noise(latents.x0.double(), latents.eps.double(), times)
    with torch.no_grad():
        time = diffusion.model_time(times).float()
        output = model.backbone(diffusion.model_input(z, times).float(), time, latents.labels)
    prediction, _ = diffusion.variance.split(output.double(), z)
    return diffusion.to_x0(prediction, z, times)


def spread_timesteps(diffusion: Diffusion, count: int, from_share: float = 0.0) -> Tensor:
    """Up to `count` timesteps (K,), ascending and evenly spaced over the schedule's end from `from_share` on.

    The last timestep is among them.
    """
    schedule = diffusion.schedule
    if isinstance(schedule, DiscreteSchedule):
        first = int(from_share * schedule.num_timesteps)
        return torch.linspace(first, schedule.num_timesteps - 1, count).round().long().unique()
    # Neither end: at t = 0 or 1 one of alpha and sigma may be 0.
    return from_share + (1 - from_share) * (torch.arange(count, dtype=torch.float64) + 0.5) / count
