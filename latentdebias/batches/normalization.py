"""Between the autoencoder's latents and the unit-scale latents that diffusion runs on."""

from collections.abc import Sequence
from dataclasses import dataclass
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
        """`channel`: the set's own statistics; `scaling`: the autoencoder's shift and scaling factor."""
        if kind == "channel":
            # A constant channel has no scale to divide by.
            return cls(tuple(manifest.latent_mean), tuple(std or 1.0 for std in manifest.latent_std))
        channels, autoencoder = manifest.latent_shape[0], manifest.autoencoder
        return cls((autoencoder["shift_factor"],) * channels, (1 / autoencoder["scaling_factor"],) * channels)

    def normalize(self, latents: Tensor) -> Tensor:
        """Unscaled latents `(B, C, h, w)` -> unit-scale ones."""
        return (latents - _column(self.mean, latents)) / _column(self.std, latents)

    def denormalize(self, z: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return z * _column(self.std, z) + _column(self.mean, z)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
