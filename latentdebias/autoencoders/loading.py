"""Find and load an autoencoder: by hub id, local folder, or the name of a packaged one."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError

from latentdebias import digits
from latentdebias.autoencoders.autoencoder import (
    FAMILIES,
    PIXELS,
    Autoencoder,
    DiffusersAutoencoder,
    Family,
    PixelAutoencoder,
)
from latentdebias.autoencoders.identity import AutoencoderIdentity
from latentdebias.errors import UserError, legal_choices
from latentdebias.files import read_json, sha256_of

DEFAULT_AUTOENCODER = "stabilityai/sd-vae-ft-mse"
DIGITS = "digits"
CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_autoencoder(
    id_or_dir: str = DEFAULT_AUTOENCODER,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Autoencoder:
    """Load a hub id, a local folder (either may keep the autoencoder in `vae/`), the packaged `digits`, or `identity`.

    `dtype` is that of the forward; `identity`, which is pixels, has none. Only safetensors weights are read.
    `UserError` where there is no such autoencoder, or it is of another class than those of `FAMILIES`.
    """
    if id_or_dir == PIXELS:
        return PixelAutoencoder(device)
    folder = _autoencoder_folder(id_or_dir)
    try:
        family = _family(id_or_dir, folder)
        vae = family.cls.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"Autoencoder {id_or_dir!r} cannot be loaded from {folder}: {str(error)[:300]} If it is cut short or "
            f"a pointer of git-lfs, fetch it again: hf download {id_or_dir}"
        ) from None
    return DiffusersAutoencoder(vae, family, _identity(id_or_dir, folder, family, vae.config), device)


def load_this_autoencoder(made_with: AutoencoderIdentity, id_or_dir: str, device: torch.device | str) -> Autoencoder:
    """The autoencoder that latents were made with, from wherever it is now.

    Raises `UserError` where what is found there differs in weights, scale or shape. Where the weights' sha256
    is "", they were never seen, as of a published model's autoencoder; then only scale and shape are compared.
    """
    autoencoder = load_autoencoder(id_or_dir, device)
    found = dataclasses.replace(autoencoder.identity, id=made_with.id)
    if not made_with.weights_sha256:
        found = dataclasses.replace(found, config_sha256="", weights_sha256="")
    if found != made_with:
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
            f"(huggingface-cli download {hub_id} in older versions); or pass a local folder, {DIGITS!r}, or {PIXELS!r}."
        ) from None


def _family(id_or_dir: str, folder: Path) -> Family:
    """By the class that the config names; files older than that key are of the first of all."""
    config = read_json(folder / CONFIG, f"Fetch it again: hf download {id_or_dir}")
    kind = config.get("_class_name", "AutoencoderKL")
    if kind not in FAMILIES:
        raise UserError(
            f"Autoencoder {id_or_dir!r} is of class {kind!r}. {legal_choices(kind, FAMILIES)} "
            f"Pass such a one, for example {DEFAULT_AUTOENCODER}."
        )
    return FAMILIES[kind]


def _identity(id_or_dir: str, folder: Path, family: Family, config: Any) -> AutoencoderIdentity:
    """`config` is the loaded model's, not the file's: early files leave the scaling factor to the class."""
    return AutoencoderIdentity(
        id=id_or_dir,
        config_sha256=sha256_of(folder / CONFIG),
        weights_sha256=sha256_of(folder / WEIGHTS),
        scaling_factor=float(config.scaling_factor),
        shift_factor=float(config.get("shift_factor") or 0.0),
        channels=config.latent_channels,
        factor=family.factor(config),
    )
