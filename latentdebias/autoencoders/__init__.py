"""Frozen autoencoders between pixels and the latents that diffusion runs on."""

from latentdebias.autoencoders.autoencoder import PIXELS, Autoencoder, PixelAutoencoder, to_uint8
from latentdebias.autoencoders.identity import AutoencoderIdentity
from latentdebias.autoencoders.loading import DEFAULT_AUTOENCODER, load_autoencoder, load_this_autoencoder, stored_form

__all__ = [
    "DEFAULT_AUTOENCODER",
    "PIXELS",
    "Autoencoder",
    "AutoencoderIdentity",
    "PixelAutoencoder",
    "load_autoencoder",
    "load_this_autoencoder",
    "stored_form",
    "to_uint8",
]
