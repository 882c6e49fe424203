"""What tells one autoencoder from another, so that latents and models made with different ones never mix."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AutoencoderIdentity:
    """An autoencoder's name, the sha256 of its two files' bytes, and the numbers that its latents depend on.

    Diffusion runs on `(latent - shift_factor) * scaling_factor`; `factor` is pixels per latent along one side.
    """

    id: str
    config_sha256: str
    weights_sha256: str
    scaling_factor: float
    shift_factor: float
    channels: int
    factor: int
