"""From noise to latents: guidance, samplers, and the loop that draws a set."""

from latentdebias.sampling import ancestral, heun, multistep
from latentdebias.sampling.draw_options import DrawOptions, check_draw
from latentdebias.sampling.guidance import Guidance
from latentdebias.sampling.guided import Guided
from latentdebias.sampling.latent_model import LatentModel
from latentdebias.sampling.latent_sampler import LatentSampler, image_generator
from latentdebias.sampling.network import ModelFacts, Network
from latentdebias.sampling.samplers import SAMPLERS, Sampler

__all__ = [
    "SAMPLERS",
    "DrawOptions",
    "Guidance",
    "Guided",
    "LatentModel",
    "LatentSampler",
    "ModelFacts",
    "Network",
    "Sampler",
    "ancestral",
    "check_draw",
    "heun",
    "image_generator",
    "multistep",
]
