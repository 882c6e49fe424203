"""Noise levels, schedules, targets, weightings, variances and timestep samplers: pure torch, no I/O."""

from latentdebias.diffusion.errors import ERRORS, ErrorFunction
from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.process import Diffusion
from latentdebias.diffusion.schedules import SCHEDULES, Schedule
from latentdebias.diffusion.targets import TARGETS, Target
from latentdebias.diffusion.terms import TERMS, Term
from latentdebias.diffusion.timesteps import TIMESTEP_SAMPLERS, TimestepSampler
from latentdebias.diffusion.variances import VARIANCES, Variance
from latentdebias.diffusion.weightings import WEIGHTINGS, Weighting

__all__ = [
    "ERRORS",
    "SCHEDULES",
    "TARGETS",
    "TERMS",
    "TIMESTEP_SAMPLERS",
    "VARIANCES",
    "WEIGHTINGS",
    "Diffusion",
    "ErrorFunction",
    "NoiseLevel",
    "Schedule",
    "Target",
    "Term",
    "TimestepSampler",
    "Variance",
    "Weighting",
]
