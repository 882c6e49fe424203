"""The timesteps that a sampler visits, and the noise levels it meets there."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from latentdebias.diffusion import Schedule
from latentdebias.diffusion.schedules import DiscreteSchedule

Spacing = Literal["trailing", "linspace", "leading"]


def visited(schedule: Schedule, steps: int, spacing: Spacing = "trailing") -> Tensor:
    """The timesteps `(steps,)` of a trajectory, noisiest first, on the CPU.

    A discrete schedule is respaced (Lin et al. 2023, table 2); a continuous one is cut into equal parts.
    """
    if isinstance(schedule, DiscreteSchedule):
        return SPACINGS[spacing](schedule.num_timesteps, steps)
    return schedule.from_unit(1 - torch.arange(steps, dtype=torch.float64) / steps)


def levels(schedule: Schedule, t: Tensor) -> list[tuple[float, float]]:
    """(alpha, sigma) at each of `t`, and at last those of the data, (1, 0)."""
    alpha, sigma = schedule.alpha_sigma(t, torch.float64)
    return [*zip(alpha.tolist(), sigma.tolist(), strict=True), (1.0, 0.0)]


def _trailing(num_timesteps: int, steps: int) -> Tensor:
    """Equal steps down from the last timestep."""
    counted_down = num_timesteps - torch.arange(steps, dtype=torch.float64) * num_timesteps / steps
    return counted_down.round().long() - 1


def _linspace(num_timesteps: int, steps: int) -> Tensor:
    """Both ends and equal steps between them: the respacing of ADM, DiT and Debias."""
    if steps == 1:
        return torch.tensor([num_timesteps - 1])
    counted_up = torch.arange(steps, dtype=torch.float64) * ((num_timesteps - 1) / (steps - 1))
    return counted_up.round().long().flip(0)


def _leading(num_timesteps: int, steps: int) -> Tensor:
    """Equal steps up from the first timestep: the original DDIM's."""
    return (torch.arange(steps) * (num_timesteps // steps)).flip(0)


SPACINGS: dict[str, Callable[[int, int], Tensor]] = {"trailing": _trailing, "linspace": _linspace, "leading": _leading}
