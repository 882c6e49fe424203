"""Latent-diffusion training for ViT/DiT backbones with debiased loss weighting.

Importing the package imports neither torch nor timm: a public name is imported where it is first used. The backbones
(`dit_*`, `min_snr_vit_*`, `uvit_*`, `unet_*`, `ldm_unet`) are registered with timm once both packages are imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

from latentdebias.timm_registration import register_when_timm_is_imported
from latentdebias.version import __version__

if TYPE_CHECKING:
    from latentdebias import backbones
    from latentdebias.diffusion import Diffusion
    from latentdebias.models.model_directory import LoadedModel, load_model

__all__ = ["Diffusion", "LoadedModel", "__version__", "backbones", "load_model"]

_HOMES = {
    "Diffusion": "latentdebias.diffusion",
    "LoadedModel": "latentdebias.models.model_directory",
    "load_model": "latentdebias.models.model_directory",
}


def __getattr__(name: str) -> Any:
    """Import the public name `name` where it is used (PEP 562); any other name is an `AttributeError`."""
    if name == "backbones":
        return importlib.import_module("latentdebias.backbones")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'latentdebias' has no attribute {name!r}")


register_when_timm_is_imported()
