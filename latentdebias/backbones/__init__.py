"""Denoising networks, built by name. Importing this package also registers them with timm."""

from latentdebias.backbones.dit import DiT, DiTSpec
from latentdebias.backbones.ldm_unet import LDMUNet, LDMUNetSpec
from latentdebias.backbones.min_snr_vit import MinSNRViT, MinSNRViTSpec
from latentdebias.backbones.spec import BACKBONES, BackboneSpec
from latentdebias.backbones.unet import UNet, UNetSpec
from latentdebias.backbones.uvit import UViT, UViTSpec
from latentdebias.backbones.vit import TimmViT, TokenViT

__all__ = [
    "BACKBONES",
    "BackboneSpec",
    "DiT",
    "DiTSpec",
    "LDMUNet",
    "LDMUNetSpec",
    "MinSNRViT",
    "MinSNRViTSpec",
    "TimmViT",
    "TokenViT",
    "UNet",
    "UNetSpec",
    "UViT",
    "UViTSpec",
]
