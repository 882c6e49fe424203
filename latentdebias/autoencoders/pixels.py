"""The autoencoder `identity`, for diffusion on pixels: its latents are the images themselves."""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentdebias.autoencoders.autoencoder import AUTOENCODERS, Autoencoder, AutoencoderIdentity, Posterior, StoredDtype

PIXELS = "identity"


class PixelAutoencoder:
    """The `Autoencoder` whose latents are the images in [-1, 1], which a shard stores as uint8 exactly."""

    posterior: Posterior = "deterministic"
    stored_dtype: StoredDtype = "uint8"
    dtype: torch.dtype = torch.float32

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.identity = AutoencoderIdentity(
            id=PIXELS,
            config_sha256="",
            weights_sha256="",
            scaling_factor=1.0,
            shift_factor=0.0,
            channels=3,
            factor=1,
        )

    def encode(self, images: Tensor) -> Tensor:
        """The images `(B, 3, H, W)` themselves, float32."""
        return images.to(self.device, self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """The latents `(B, 3, H, W)`, float32, clamped to [-1, 1]."""
        return latents.to(self.device, self.dtype).clamp(-1, 1)


@AUTOENCODERS.register(PIXELS)
@dataclass(frozen=True)
class Pixels:
    """No autoencoder: diffusion runs on the pixels. There is no forward pass, so `dtype` is ignored."""

    def load(self, device: torch.device | str, dtype: torch.dtype) -> Autoencoder:
        return PixelAutoencoder(device)
