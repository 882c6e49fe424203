"""From noise to latents: guidance, samplers, and the loop that draws a set."""

from latentdebias.sampling import ancestral, heun, multistep
from latentdebias.sampling.generate import generate, image_generator, sample
from latentdebias.sampling.guidance import Guided
from latentdebias.sampling.guidance_options import GuidanceOptions
from latentdebias.sampling.network import Network
from latentdebias.sampling.samplers import SAMPLERS, Sampler

__all__ = [
    "SAMPLERS",
    "GuidanceOptions",
    "Guided",
    "Network",
    "Sampler",
    "ancestral",
    "generate",
    "heun",
    "image_generator",
    "multistep",
    "sample",
]
