"""What every autoencoder offers, those of `diffusers`, and the one that leaves pixels as they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from torch import Tensor

from latentdebias.autoencoders.identity import AutoencoderIdentity

PIXELS = "identity"
Posterior = Literal["gaussian", "deterministic"]
StoredDtype = Literal["float16", "uint8"]


class Autoencoder(Protocol):
    """A frozen autoencoder: images `(B, 3, H, W)` in [-1, 1] <-> unscaled latents `(B, C, h, w)`.

    `posterior` says what `encode` gives, `stored_dtype` what holds that exactly enough in a shard.
    """

    identity: AutoencoderIdentity
    device: torch.device
    dtype: torch.dtype
    posterior: Posterior
    stored_dtype: StoredDtype

    def encode(self, images: Tensor) -> Tensor:
        """Float32 moments `(B, 2C, h, w)`, mean then log-variance, or deterministic latents `(B, C, h, w)`."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, 3, H, W)`, float32 in [-1, 1], of unscaled latents `(B, C, h, w)`."""


@dataclass(frozen=True)
class Family:
    """One class of `diffusers` autoencoders: what its encoder gives, and the config key that lists its resolutions."""

    cls: Any
    posterior: Posterior
    encode: Callable[[Any, Tensor], Tensor]
    blocks: str

    def factor(self, config: Any) -> int:
        """Pixels per latent along one side: every resolution but the first halves it."""
        return 2 ** (len(config[self.blocks]) - 1)


def _gaussian_moments(vae: Any, images: Tensor) -> Tensor:
    """Mean, then the log-variance as diffusers clamps it."""
    posterior = vae.encode(images).latent_dist
    return torch.cat([posterior.mean, posterior.logvar], dim=1)


FAMILIES = {
    family.cls.__name__: family
    for family in (
        Family(AutoencoderKL, "gaussian", _gaussian_moments, "block_out_channels"),
        Family(AutoencoderDC, "deterministic", lambda vae, x: vae.encode(x).latent, "encoder_block_out_channels"),
        Family(AutoencoderTiny, "deterministic", lambda vae, x: vae.encode(x).latents, "encoder_block_out_channels"),
    )
}
"""By the `_class_name` in an autoencoder's config."""


class DiffusersAutoencoder:
    """An `Autoencoder` of one of the `FAMILIES`."""

    stored_dtype: StoredDtype = "float16"

    def __init__(
        self, vae: Any, family: Family, identity: AutoencoderIdentity, device: torch.device | str = "cpu"
    ) -> None:
        self.vae = vae.to(device).eval().requires_grad_(False)
        self.family = family
        self.identity = identity
        self.posterior: Posterior = family.posterior
        self.device = torch.device(device)
        self.dtype: torch.dtype = vae.dtype

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """As `Autoencoder.encode`."""
        return self.family.encode(self.vae, images.to(self.device, self.dtype)).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `Autoencoder.decode`."""
        return self.vae.decode(latents.to(self.device, self.dtype)).sample.float().clamp(-1, 1)


class PixelAutoencoder:
    """The `Autoencoder` for diffusion on pixels: its latents are the images in [-1, 1], stored as uint8 exactly."""

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


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 of the same shape, rounded to the nearest level."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
