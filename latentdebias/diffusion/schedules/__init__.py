"""Noise schedules, discrete and continuous; importing this package registers them by name."""

from latentdebias.diffusion.schedules.continuous import ContinuousSchedule, EdmLevels, Flow
from latentdebias.diffusion.schedules.discrete import (
    DiscreteSchedule,
    Linear,
    ScaledLinear,
    Table,
    betas_of,
    previous_of,
)
from latentdebias.diffusion.schedules.schedule import SCHEDULES, Schedule

__all__ = [
    "SCHEDULES",
    "ContinuousSchedule",
    "DiscreteSchedule",
    "EdmLevels",
    "Flow",
    "Linear",
    "ScaledLinear",
    "Schedule",
    "Table",
    "betas_of",
    "previous_of",
]
