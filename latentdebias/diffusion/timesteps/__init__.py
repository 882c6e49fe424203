"""Timestep samplers; importing this package registers them by name."""

from latentdebias.diffusion.timesteps import by_noise_level, by_position, loss_aware
from latentdebias.diffusion.timesteps.timestep_sampler import TIMESTEP_SAMPLERS, TimestepSampler

__all__ = ["TIMESTEP_SAMPLERS", "TimestepSampler", "by_noise_level", "by_position", "loss_aware"]
