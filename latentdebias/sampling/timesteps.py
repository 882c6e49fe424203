"""The timesteps that a sampler visits."""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from latentdebias.diffusion import Schedule
from latentdebias.diffusion.schedules import DiscreteSchedule

Spacing = Literal["trailing", "linspace", "leading"]


def visited(schedule: Schedule, steps: int, spacing: Spacing = "trailing") -> Tensor:
    """The timesteps t `(steps,)` at which a sampler asks the network, noisiest first, on the CPU.

    On a discrete schedule `spacing` chooses them (Lin et al. 2023, table 2); a continuous one is cut into equal parts.
    """
    if isinstance(schedule, DiscreteSchedule):
        return SPACINGS[spacing](schedule.num_timesteps, steps)
    return schedule.from_unit(1 - torch.arange(steps, dtype=torch.float64) / steps)


def _trailing(num_timesteps: int, steps: int) -> Tensor:
    """Equal strides down from the last timestep, rounded (Lin et al. 2023)."""
    counted_down = num_timesteps - torch.arange(steps, dtype=torch.float64) * num_timesteps / steps
    return counted_down.round().long() - 1


def _linspace(num_timesteps: int, steps: int) -> Tensor:
    """Both ends and equal strides between them, as ADM, DiT and Debias respace.

    The stride is added up in floating point and each sum rounded to the nearest whole number, a half to the even one.
    One sum is not the product of stride and count to the last bit, so a half may fall to the other side.
    """
    if steps == 1:
        return torch.tensor([num_timesteps - 1])
    stride = (num_timesteps - 1) / (steps - 1)
    counted_up = itertools.accumulate([0.0] + [stride] * (steps - 1))
    return torch.tensor([round(position) for position in counted_up]).flip(0)


def _leading(num_timesteps: int, steps: int) -> Tensor:
    """Equal whole strides up from the first timestep, as DDIM's own code spaces them (Song et al. 2021)."""
    return (torch.arange(steps) * (num_timesteps // steps)).flip(0)


SPACINGS: dict[str, Callable[[int, int], Tensor]] = {"trailing": _trailing, "linspace": _linspace, "leading": _leading}
