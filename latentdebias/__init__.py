"""Latent-diffusion training for ViT/DiT backbones with debiased loss weighting.

Importing it also registers `dit_*`, `min_snr_vit_*`, `uvit_*`, `unet_*` and `ldm_unet` with timm.
"""

from typing import TYPE_CHECKING, Any

from latentdebias import backbones
from latentdebias.diffusion import Diffusion

if TYPE_CHECKING:
    from latentdebias.models.model_directory import LoadedModel, load_model

__all__ = ["Diffusion", "LoadedModel", "backbones", "load_model"]


def __getattr__(name: str) -> Any:
    """`load_model` and `LoadedModel`, imported when asked for: they bring diffusers, which takes seconds."""
    if name in ("LoadedModel", "load_model"):
        from latentdebias.models import model_directory

        return getattr(model_directory, name)
    raise AttributeError(f"module 'latentdebias' has no attribute {name!r}")
