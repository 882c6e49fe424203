"""From noise to latents: guidance, samplers, and the loop that draws a set."""

from latentdebias.sampling.generate import generate, image_generator, sample
from latentdebias.sampling.guidance import Guided
from latentdebias.sampling.samplers import SAMPLERS, Sampler

__all__ = ["SAMPLERS", "Guided", "Sampler", "generate", "image_generator", "sample"]
