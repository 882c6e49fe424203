"""The autoencoders of Stable Diffusion and its kin: any `diffusers.AutoencoderKL`, by hub id or local folder."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import Tensor

from latentdebias import digits
from latentdebias.autoencoders.identity import AutoencoderIdentity
from latentdebias.errors import UserError

DEFAULT_AUTOENCODER = "stabilityai/sd-vae-ft-mse"
DIGITS = "digits"
CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Autoencoder:
    """A frozen `diffusers` autoencoder: images `(B, 3, H, W)` in [-1, 1] <-> unscaled latents `(B, C, h, w)`."""

    def __init__(self, vae: Any, identity: AutoencoderIdentity, device: torch.device | str = "cpu") -> None:
        self.vae = vae.to(device).eval().requires_grad_(False)
        self.identity = identity
        self.device = torch.device(device)
        self.dtype: torch.dtype = vae.dtype

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Posterior moments `(B, 2C, h, w)`, float32: the mean, then the log-variance as diffusers clamps it."""
        posterior = self.vae.encode(images.to(self.device, self.dtype)).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, 3, H, W)`, float32 in [-1, 1], of unscaled latents `(B, C, h, w)`."""
        return self.vae.decode(latents.to(self.device, self.dtype)).sample.float().clamp(-1, 1)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 of the same shape, rounded to the nearest level."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def load_autoencoder(
    id_or_dir: str = DEFAULT_AUTOENCODER,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Autoencoder:
    """Load a hub id, a local folder (either may keep the autoencoder in `vae/`), or the packaged `digits`.

    Only safetensors weights are read. `UserError` where there is no such autoencoder, or it is of another class.
    """
    folder = _autoencoder_folder(id_or_dir)
    _check_class(id_or_dir, folder)
    vae = AutoencoderKL.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
    )
    return Autoencoder(vae, _identity(id_or_dir, folder, vae.config), device)


def load_this_autoencoder(made_with: AutoencoderIdentity, id_or_dir: str, device: torch.device | str) -> Autoencoder:
    """The autoencoder that latents were made with, from wherever it is now.

    Raises `UserError` where what is found there differs in weights, scale or shape.
    """
    autoencoder = load_autoencoder(id_or_dir, device)
    if dataclasses.replace(autoencoder.identity, id=made_with.id) != made_with:
        raise UserError(
            f"Autoencoder {id_or_dir!r} is not the one these latents were made with: it is {autoencoder.identity}, and "
            f"they come from {made_with}. Say where that one is: --vae ID_OR_DIR"
        )
    return autoencoder


def _autoencoder_folder(id_or_dir: str) -> Path:
    """The folder that holds the config and the weights, downloaded first where it is a hub id."""
    root = _local_root(id_or_dir) or _download(id_or_dir)
    for folder in (root, root / "vae"):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise UserError(
        f"Autoencoder {id_or_dir!r}: found no {CONFIG} beside a {WEIGHTS}, neither in {root} nor in its vae/ "
        f"folder. Pass a folder written by diffusers' save_pretrained, or fetch the whole autoencoder with: "
        f"hf download {id_or_dir}"
    )


def _local_root(id_or_dir: str) -> Path | None:
    path = digits.AUTOENCODER_DIR if id_or_dir == DIGITS else Path(id_or_dir)
    return path if path.is_dir() else None


def _download(hub_id: str) -> Path:
    wanted = [f"{prefix}{name}" for prefix in ("", "vae/") for name in (CONFIG, WEIGHTS)]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Autoencoder {hub_id!r} is no local folder, and the Hugging Face hub did not give it ({reason}). "
            f"Fetch it on a machine with network access, with: hf download {hub_id} "
            f"(huggingface-cli download {hub_id} in older versions); or pass a local folder, or {DIGITS!r}."
        ) from None


def _check_class(id_or_dir: str, folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    kind = config.get("_class_name", AutoencoderKL.__name__)
    if kind != AutoencoderKL.__name__:
        raise UserError(
            f"Autoencoder {id_or_dir!r} is of class {kind!r}; legal here: {AutoencoderKL.__name__}. "
            f"Pass such a one, for example {DEFAULT_AUTOENCODER}."
        )


def _identity(id_or_dir: str, folder: Path, config: Any) -> AutoencoderIdentity:
    """`config` is the loaded model's, not the file's: early files leave the scaling factor to the class."""
    return AutoencoderIdentity(
        id=id_or_dir,
        config_sha256=_sha256(folder / CONFIG),
        weights_sha256=_sha256(folder / WEIGHTS),
        scaling_factor=float(config.scaling_factor),
        shift_factor=float(config.shift_factor or 0.0),
        channels=config.latent_channels,
        factor=2 ** (len(config.block_out_channels) - 1),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
