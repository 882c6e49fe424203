"""Frozen autoencoders between pixels and the latents that diffusion runs on."""

from latentdebias.autoencoders.autoencoder import (
    AUTOENCODERS,
    Autoencoder,
    AutoencoderIdentity,
    AutoencoderSpec,
    Posterior,
    StoredDtype,
    to_uint8,
)
from latentdebias.autoencoders.diffusers_folder import DEFAULT_AUTOENCODER, DiffusersAutoencoder
from latentdebias.autoencoders.loading import load_autoencoder, load_this_autoencoder, stored_form
from latentdebias.autoencoders.pixels import PIXELS, PixelAutoencoder

__all__ = [
    "AUTOENCODERS",
    "DEFAULT_AUTOENCODER",
    "PIXELS",
    "Autoencoder",
    "AutoencoderIdentity",
    "AutoencoderSpec",
    "DiffusersAutoencoder",
    "PixelAutoencoder",
    "Posterior",
    "StoredDtype",
    "load_autoencoder",
    "load_this_autoencoder",
    "stored_form",
    "to_uint8",
]
