"""Frozen autoencoders between pixels and the latents that diffusion runs on."""

from latentdebias.autoencoders.identity import AutoencoderIdentity
from latentdebias.autoencoders.sd_vae import (
    DEFAULT_AUTOENCODER,
    Autoencoder,
    load_autoencoder,
    load_this_autoencoder,
    to_uint8,
)

__all__ = [
    "DEFAULT_AUTOENCODER",
    "Autoencoder",
    "AutoencoderIdentity",
    "load_autoencoder",
    "load_this_autoencoder",
    "to_uint8",
]
