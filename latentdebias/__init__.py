"""Latent-diffusion training for ViT/DiT backbones with debiased loss weighting.

Importing it also registers `dit_*` and `diffusion_vit_*` with timm.
"""

from latentdebias.diffusion import Diffusion
from latentdebias.export import LoadedModel, load_model

__all__ = ["Diffusion", "LoadedModel", "load_model"]
