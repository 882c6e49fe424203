"""Finds and loads an autoencoder: by its registered name, from a local folder, or by its id on the Hugging Face hub."""

import dataclasses
from pathlib import Path

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from latentdebias.autoencoders.autoencoder import AUTOENCODERS, Autoencoder, AutoencoderIdentity, Posterior, StoredDtype
from latentdebias.autoencoders.diffusers_folder import (
    CONFIG,
    DEFAULT_AUTOENCODER,
    FAMILIES,
    WEIGHTS,
    DiffusersAutoencoder,
    class_name,
    load_diffusers_folder,
)
from latentdebias.errors import UserError


def load_autoencoder(
    name_or_path: str = DEFAULT_AUTOENCODER,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Autoencoder:
    """Load an autoencoder: a name of `AUTOENCODERS`, else a local folder, else a hub id.

    A folder or a hub repository may keep the autoencoder in `vae/`. `dtype` is that of the forward pass; the
    autoencoder `identity`, whose latents are the pixels, has none and ignores it. Raises `UserError` where there is no
    such autoencoder, its files are damaged, or its class is none of the known ones.
    """
    if name_or_path in AUTOENCODERS.names():
        return AUTOENCODERS.build(name_or_path).load(device, dtype)
    return load_diffusers_folder(_autoencoder_folder(name_or_path), name_or_path, device, dtype)


def load_this_autoencoder(made_with: AutoencoderIdentity, name_or_path: str, device: torch.device | str) -> Autoencoder:
    """The autoencoder `name_or_path`, which must be the one with the identity `made_with`, in whatever place it is now.

    Raises `UserError` where its config, weights, scale or shape differ. Where `made_with` has no sha256 of the weights,
    as for a published model's autoencoder, only the scale and the shape are compared.
    """
    autoencoder = load_autoencoder(name_or_path, device)
    found = dataclasses.replace(autoencoder.identity, id=made_with.id)
    if not made_with.weights_sha256:
        found = dataclasses.replace(found, config_sha256="", weights_sha256="")
    if found != made_with:
        raise UserError(
            f"Autoencoder {name_or_path!r} is not the one these latents were made with: it is {autoencoder.identity}, "
            f"and they come from {made_with}. Say where that one is: --vae ID_OR_DIR"
        )
    return autoencoder


def stored_form(name_or_path: str) -> tuple[Posterior, StoredDtype] | None:
    """The kind of output that an autoencoder's `encode` gives, and the dtype in which shards store it.

    A registered autoencoder is loaded to learn this; of a folder or a hub id only the config is read. Nothing is
    downloaded: the result is None where that config is not on this machine.
    """
    if name_or_path in AUTOENCODERS.names():
        autoencoder = load_autoencoder(name_or_path)
        return autoencoder.posterior, autoencoder.stored_dtype
    for name in (CONFIG, f"vae/{CONFIG}"):
        path = Path(name_or_path, name) if Path(name_or_path).is_dir() else _cached(name_or_path, name)
        if path is not None and path.is_file():
            return FAMILIES[class_name(path.parent, name_or_path)].posterior, DiffusersAutoencoder.stored_dtype
    return None


def _cached(hub_id: str, name: str) -> Path | None:
    """The local path of the hub's file `name`; None where it was never downloaded."""
    try:
        path = try_to_load_from_cache(hub_id, name)
    except HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def _autoencoder_folder(id_or_dir: str) -> Path:
    """The folder that holds the config and the weights; those of a hub id are downloaded first."""
    root = Path(id_or_dir) if Path(id_or_dir).is_dir() else _download(id_or_dir)
    for folder in (root, root / "vae"):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise UserError(
        f"Autoencoder {id_or_dir!r}: found no {CONFIG} beside a {WEIGHTS}, neither in {root} nor in its vae/ "
        f"folder. Pass a folder written by diffusers' save_pretrained, or fetch the whole autoencoder with: "
        f"hf download {id_or_dir}"
    )


def _download(hub_id: str) -> Path:
    wanted = [f"{prefix}{name}" for prefix in ("", "vae/") for name in (CONFIG, WEIGHTS)]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        names = ", ".join(map(repr, AUTOENCODERS.names()))
        raise UserError(
            f"Autoencoder {hub_id!r} is no local folder, and the Hugging Face hub did not give it ({reason}). "
            f"Fetch it on a machine with network access, with: hf download {hub_id} (huggingface-cli download "
            f"{hub_id} in older versions); or pass a local folder, or one of the names {names}. "
            f"A name of your own is known once the module that registers it is imported: --imports MODULE"
        ) from None
