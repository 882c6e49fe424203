"""Denoising networks, built by name; importing this room registers them with timm as well."""

from latentdebias.backbones.dit import DiT, DiTSpec
from latentdebias.backbones.protocol import BACKBONES, BackboneSpec
from latentdebias.backbones.vit import DiffusionViT, TimmViT, TokenViT

__all__ = ["BACKBONES", "BackboneSpec", "DiT", "DiTSpec", "DiffusionViT", "TimmViT", "TokenViT"]
