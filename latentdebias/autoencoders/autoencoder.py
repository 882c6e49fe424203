"""What an autoencoder offers, what tells one from another, and the registry of those that have a name."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from latentdebias.registry import Registry

Posterior = Literal["gaussian", "deterministic"]
"""The kind of an encoder's output: the moments of a Gaussian posterior, or the latent itself."""
StoredDtype = Literal["float16", "uint8"]
"""The dtype in which shards store an encoder's output; uint8 is for pixels, which it holds exactly."""


@dataclass(frozen=True)
class AutoencoderIdentity:
    """What tells one autoencoder from another, so that latents and models made with different ones never mix.

    `id` is what `load_autoencoder` finds it by, and the sha256s are those of its config and weight files, "" where
    it has none. Diffusion runs on `(latent - shift_factor) * scaling_factor`. A latent has `channels` channels, and
    `factor` is the number of pixels per latent along one side.
    """

    id: str
    config_sha256: str
    weights_sha256: str
    scaling_factor: float
    shift_factor: float
    channels: int
    factor: int


class Autoencoder(Protocol):
    """A frozen autoencoder: images `(B, 3, H, W)` in [-1, 1] <-> unscaled latents `(B, C, h, w)`.

    `device` and `dtype` are those of its forward pass; `posterior` is the kind of what `encode` gives, and
    `stored_dtype` the dtype in which shards store it.
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


class AutoencoderSpec(Protocol):
    """An entry of `AUTOENCODERS`: a frozen dataclass that can load the autoencoder of its name."""

    def load(self, device: torch.device | str, dtype: torch.dtype) -> Autoencoder:
        """The autoencoder on `device`, with a forward pass in `dtype`; its `identity.id` is the registered name."""


AUTOENCODERS: Registry[AutoencoderSpec] = Registry("autoencoder")


def to_uint8(images: Tensor) -> Tensor:
    """Images `(B, 3, H, W)` in [-1, 1] as uint8 levels 0 to 255 `(B, 3, H, W)`, rounded to the nearest."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
