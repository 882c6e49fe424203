"""Converts between the autoencoder's latents and the unit-scale latents that diffusion runs on."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from latentdebias.shards.format import Manifest

NormalizationKind = Literal["channel", "scaling"]


@dataclass(frozen=True)
class LatentNormalization:
    """z = (latent - mean) / std, with one mean and std a channel `(C,)`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of_manifest(cls, manifest: Manifest, kind: NormalizationKind) -> "LatentNormalization":
        """The normalization of a shard set.

        `channel` takes the mean and the std of each channel over the set; `scaling` takes the autoencoder's shift as
        the mean and 1 / its scaling factor as the std, as latent diffusion does.
        """
        if kind == "channel":
            # A constant channel has no scale to divide by.
            return cls(tuple(manifest.latent_mean), tuple(std or 1.0 for std in manifest.latent_std))
        channels, autoencoder = manifest.latent_shape[0], manifest.autoencoder
        return cls((autoencoder["shift_factor"],) * channels, (1 / autoencoder["scaling_factor"],) * channels)

    def normalize(self, latents: Tensor) -> Tensor:
        """The unit-scale latents z of unscaled `latents` `(B, C, h, w)`, as the autoencoder encodes them."""
        mean, std = self._columns(latents)
        return (latents - mean) / std

    def denormalize(self, z: Tensor) -> Tensor:
        """The unscaled latents, for the autoencoder to decode, of unit-scale `z` `(B, C, h, w)`: z std + mean."""
        mean, std = self._columns(z)
        return z * std + mean

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return _column(self.mean, like.dtype, like.device), _column(self.std, like.dtype, like.device)


@lru_cache(maxsize=16)
def _column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The values as a tensor `(C, 1, 1)`, cached because every copy to a GPU would wait for the GPU."""
    # A cached tensor that was made in inference mode could not be used in training afterwards.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)
