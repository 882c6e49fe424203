"""Autoencoders of `diffusers`, loaded from a folder that `save_pretrained` wrote, and the digits' packaged one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from latentdebias import digits
from latentdebias.autoencoders.autoencoder import AUTOENCODERS, Autoencoder, AutoencoderIdentity, Posterior, StoredDtype
from latentdebias.errors import UserError, legal_choices
from latentdebias.files import read_json, sha256_of

DEFAULT_AUTOENCODER = "stabilityai/sd-vae-ft-mse"
DIGITS = "digits"
CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
DECODED_AT_ONCE = 2**20
"""Pixels in one call of a decoder on a GPU: 16 images of 256x256, or 4 of 512x512."""


@dataclass(frozen=True)
class Family:
    """One class of `diffusers` autoencoders: how to call its encoder, what that call gives, how far it downsamples.

    `encode` takes the model and images `(B, 3, H, W)` and gives what `posterior` says. `blocks` is the config key
    that lists one entry for each of the network's resolutions.
    """

    posterior: Posterior
    encode: Callable[[Any, Tensor], Tensor]
    blocks: str

    def factor(self, config: Any) -> int:
        """Pixels per latent along one side: each resolution of the network after the first halves the image."""
        return 2 ** (len(config[self.blocks]) - 1)


def _gaussian_moments(vae: Any, images: Tensor) -> Tensor:
    """Posterior moments `(B, 2C, h, w)` of images `(B, 3, H, W)`: mean, then log-variance (diffusers clamps it)."""
    posterior = vae.encode(images).latent_dist
    return torch.cat([posterior.mean, posterior.logvar], dim=1)


FAMILIES = {
    "AutoencoderKL": Family("gaussian", _gaussian_moments, "block_out_channels"),
    "AutoencoderDC": Family("deterministic", lambda vae, x: vae.encode(x).latent, "encoder_block_out_channels"),
    "AutoencoderTiny": Family("deterministic", lambda vae, x: vae.encode(x).latents, "encoder_block_out_channels"),
}
"""Class name -> family; the class name is the `_class_name` in an autoencoder's config."""


def as_convolved(vae: Any) -> Any:
    """The model with its weights in the memory order of cuDNN's bf16 convolutions, channels last, if these are used."""
    if vae.device.type == "cuda" and vae.dtype == torch.bfloat16:
        return vae.to(memory_format=torch.channels_last)
    return vae


class DiffusersAutoencoder:
    """The `Autoencoder` around a model `vae` of `diffusers`, whose class is one of the `FAMILIES`."""

    stored_dtype: StoredDtype = "float16"

    def __init__(self, vae: Any, identity: AutoencoderIdentity, device: torch.device | str = "cpu") -> None:
        self.vae = as_convolved(vae.to(device)).eval().requires_grad_(False)
        self.family = FAMILIES[type(vae).__name__]
        self.identity = identity
        self.posterior: Posterior = self.family.posterior
        self.device = torch.device(device)
        self.dtype: torch.dtype = vae.dtype
        # The number of images in a call changes their last bits, and a CPU seldom lacks the memory for a batch.
        self.decoded_at_once: int | None = DECODED_AT_ONCE if self.device.type == "cuda" else None

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Float32 moments `(B, 2C, h, w)` or latents `(B, C, h, w)`, as `posterior` says, of images `(B, 3, H, W)`."""
        return self.family.encode(self.vae, images.to(self.device, self.dtype)).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, 3, H, W)`, float32 in [-1, 1], of unscaled latents `(B, C, h, w)`.

        On a GPU one call of the decoder takes at most `decoded_at_once` pixels, and one image where an image has more.
        """
        if self.decoded_at_once is None:
            return self._decode(latents)
        pixels = latents.shape[-2] * latents.shape[-1] * self.identity.factor**2
        return torch.cat([self._decode(part) for part in latents.split(max(1, self.decoded_at_once // pixels))])

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents.to(self.device, self.dtype)).sample.float().clamp(-1, 1)


def load_diffusers_folder(
    folder: Path, id_or_dir: str, device: torch.device | str, dtype: torch.dtype
) -> DiffusersAutoencoder:
    """The autoencoder in `folder`, which the user named as `id_or_dir`; only safetensors weights are read.

    Raises `UserError` where a file is damaged, or the class is none of the `FAMILIES`.
    """
    kind = class_name(folder, id_or_dir)
    import diffusers  # its import takes seconds, which encoding pixels or --help should not cost

    try:
        vae = getattr(diffusers, kind).from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"Autoencoder {id_or_dir!r} cannot be loaded from {folder}: {str(error)[:300]} If it is cut short or "
            f"a pointer of git-lfs, fetch it again: hf download {id_or_dir}"
        ) from None
    # The numbers are the loaded model's and not the file's: early files leave the scaling factor to the class.
    identity = AutoencoderIdentity(
        id=id_or_dir,
        config_sha256=sha256_of(folder / CONFIG),
        weights_sha256=sha256_of(folder / WEIGHTS),
        scaling_factor=float(vae.config.scaling_factor),
        shift_factor=float(vae.config.get("shift_factor") or 0.0),
        channels=vae.config.latent_channels,
        factor=FAMILIES[kind].factor(vae.config),
    )
    return DiffusersAutoencoder(vae, identity, device)


def class_name(folder: Path, id_or_dir: str) -> str:
    """The class name in the config in `folder`, a key of `FAMILIES`; `AutoencoderKL` where the config has none.

    Raises `UserError` for another class, or a damaged config.
    """
    config = read_json(folder / CONFIG, f"If it is cut short, fetch it again: hf download {id_or_dir}")
    kind = str(config.get("_class_name", "AutoencoderKL"))
    if kind not in FAMILIES:
        raise UserError(
            f"Autoencoder {id_or_dir!r} is of class {kind!r}. {legal_choices(kind, FAMILIES)} "
            f"Pass such a one, for example {DEFAULT_AUTOENCODER}."
        )
    return kind


@AUTOENCODERS.register(DIGITS)
@dataclass(frozen=True)
class Digits:
    """The demo's autoencoder of handwritten digits, which ships with the package: 32x32 images <-> 4x4x4 latents."""

    def load(self, device: torch.device | str, dtype: torch.dtype) -> Autoencoder:
        return load_diffusers_folder(digits.AUTOENCODER_DIR, DIGITS, device, dtype)
