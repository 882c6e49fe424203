"""Import of a diffusers folder: a `DiTPipeline`, or the `DiTTransformer2DModel` in it alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from latentdebias.backbones import DiTSpec
from latentdebias.backbones.dit import sincos_positions
from latentdebias.errors import UserError
from latentdebias.files import read_json
from latentdebias.interop.diffusers.dit_transformer import PublishedDiTTransformer2DModel
from latentdebias.interop.diffusers.names import from_diffusers
from latentdebias.interop.diffusers.scheduler import diffusion_of
from latentdebias.interop.published.checkpoint_file import CheckpointFile, open_checkpoint
from latentdebias.interop.published.dit import VAE
from latentdebias.interop.published.shapes import VARIANCES, Published, autoencoder_of, class_names, save_fitting

TrainedWith = Literal["diffusers", "dit"]
MODEL_INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model"
WHOLE_FOLDER = "Name a folder that save_pretrained of diffusers wrote, or get it from its source again."
# What DiTTransformer2DModel must be set to for it to be a DiT.
FIXED = {
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}
DEFAULTS = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "in_channels": 4,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_eps": 1e-5,
}
LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "prediction_type": "epsilon"}


def import_diffusers(folder: Path, out: Path, vae: str | None, trained_with: TrainedWith) -> list[CheckpointFile]:
    """Write the model directory `out` from the DiT in a diffusers folder; returns the weight files that were read.

    The model gives the same outputs as in diffusers. With `trained_with` "dit", for weights converted from DiT's own
    files such as facebook/DiT-XL-2-256, it has instead the time frequencies and the norm's epsilon of DiT's training.
    `vae` is the id or folder of the autoencoder, by default that of the folder, if any. Raises `UserError` where the
    folder holds no such transformer, or its config is not that of a DiT.
    """
    transformer = folder / "transformer" if (folder / "transformer").is_dir() else folder
    config = {**DEFAULTS, **read_json(transformer / "config.json", WHOLE_FOLDER)}
    _check_is_dit(config, transformer)
    files = _weight_files(transformer)
    theirs = {name: weight for file in files for name, weight in file.weights.items()}
    spec, labels = _spec(config, trained_with), _labels(folder, config)
    channels, side, count = config["in_channels"], config["sample_size"], len(labels)
    outputs = (config.get("out_channels") or channels) // channels
    scheduler = _optional_json(folder / "scheduler" / "scheduler_config.json")
    diffusion = diffusion_of(scheduler or LINEAR, VARIANCES.get(outputs, "fixed"))
    positions = sincos_positions(side // spec.patch_size, spec.width)
    weights = _only_labelled(from_diffusers(theirs, positions), count)
    model = Published(spec, diffusion, channels, side, count, weights)
    own_vae = folder / "vae" / "config.json"
    identity = autoencoder_of(channels, VAE, vae or (str(folder) if own_vae.is_file() else None))
    save_fitting(model, str(transformer), out, identity, labels)
    return files


def _check_is_dit(config: Mapping[str, Any], folder: Path) -> None:
    for name, wanted in FIXED.items():
        if config.get(name, wanted) != wanted:
            raise UserError(
                f"{folder / 'config.json'} has {name}: {config[name]!r}, and DiT has {wanted!r}; only transformers set "
                f"up like DiT can be imported."
            )


def _spec(config: Mapping[str, Any], trained_with: TrainedWith) -> DiTSpec:
    heads = config["num_attention_heads"]
    published = trained_with == "dit" or config.get("_class_name") == PublishedDiTTransformer2DModel.__name__
    eps = 1e-6 if trained_with == "dit" else config["norm_eps"]
    return DiTSpec(
        width=heads * config["attention_head_dim"],
        depth=config["num_layers"],
        heads=heads,
        patch_size=config["patch_size"],
        freq_shift=0 if published else 1,
        mlp_norm_eps=eps,
    )


def _labels(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The names of classes 0, 1, ... in the pipeline's model index; without them, ImageNet's names or numbers."""
    index = _optional_json(folder / MODEL_INDEX)
    id2label = index.get("id2label")
    if id2label is None or sorted(map(int, id2label)) != list(range(len(id2label))):
        return class_names(config["num_embeds_ada_norm"])
    return [id2label[str(label)] for label in range(len(id2label))]


def _only_labelled(weights: dict[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """The weights with the class table cut to its first `num_classes` rows and its last row, the null class."""
    key = "y_embedder.embedding_table.weight"
    table = weights.pop(key, None)
    if table is not None and num_classes:
        weights[key] = torch.cat([table[:num_classes], table[-1:]])
    return weights


def _weight_files(folder: Path) -> list[CheckpointFile]:
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index, WHOLE_FOLDER).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise UserError(f"{index} is damaged: its weight_map names no files. {WHOLE_FOLDER}")
        return [open_checkpoint(folder / Path(name).name) for name in sorted(set(weight_map.values()))]
    safe = folder / f"{WEIGHTS}.safetensors"
    return [open_checkpoint(safe if safe.is_file() else folder / f"{WEIGHTS}.bin")]


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path, WHOLE_FOLDER) if path.is_file() else {}
