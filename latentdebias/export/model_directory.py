"""A model directory: `model.safetensors` (EMA) and `config.yaml`, all that sampling needs besides the autoencoder."""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentdebias.autoencoders import Autoencoder, AutoencoderIdentity, load_autoencoder
from latentdebias.backbones import BACKBONES
from latentdebias.data.normalization import LatentNormalization
from latentdebias.diffusion import Diffusion
from latentdebias.errors import UserError
from latentdebias.registry import validate
from latentdebias.sampling.images import ImageSampler

FORMAT_VERSION = 1
CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What `config.yaml` of a model directory says; class `num_classes` is the null class, 0 classes unconditional."""

    format_version: int = FORMAT_VERSION
    model: dict[str, Any]
    diffusion: dict[str, Any]
    latent_shape: tuple[int, int, int]
    num_classes: int
    class_names: list[str]
    normalization: LatentNormalization
    resolution: int
    autoencoder: AutoencoderIdentity
    step: int
    ema_decay: float


@dataclass(frozen=True)
class LoadedModel:
    """A trained model: `.backbone(z, t, y)`, the `.diffusion` it was trained under, and its `.config`."""

    backbone: nn.Module
    diffusion: Diffusion
    config: ModelConfig

    def image_sampler(self, vae: str | None = None) -> ImageSampler:
        """The model with its autoencoder, on the model's device, ready to draw; `vae` says where the autoencoder is."""
        config, device = self.config, next(self.backbone.parameters()).device
        autoencoder = self._load_autoencoder(vae, device)
        shape, num_classes = config.latent_shape, config.num_classes
        return ImageSampler(self.backbone, self.diffusion, config.normalization, autoencoder, shape, num_classes)

    def _load_autoencoder(self, id_or_dir: str | None, device: torch.device) -> Autoencoder:
        """The autoencoder that the model's latents come from, by its recorded id or from `id_or_dir`.

        Raises `UserError` where its weights or its scale are not those that the model was trained with.
        """
        trained_with = self.config.autoencoder
        autoencoder = load_autoencoder(id_or_dir or trained_with.id, device)
        if dataclasses.replace(autoencoder.identity, id=trained_with.id) != trained_with:
            raise UserError(
                f"Autoencoder {autoencoder.identity.id!r} is not the one this model was trained with: it has "
                f"{autoencoder.identity}, and the model {trained_with}. Pass that one with --vae."
            )
        return autoencoder


def save_model(directory: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Write a model directory, replacing an older one only once the new one is whole."""
    fresh, old = directory.with_name(directory.name + ".new"), directory.with_name(directory.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, fresh / WEIGHTS)
    (fresh / CONFIG).write_text(yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False))
    if directory.exists():
        directory.rename(old)
    fresh.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def load_model(directory: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """Load a model directory onto `device`, in evaluation mode; `UserError` where it is none, or damaged."""
    directory = Path(directory)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise UserError(
                f"{directory} is no model directory: it has no {name}. A training run writes one to RUN_DIR/model; "
                f"train with: deepspeed tools/train.py --config NAME"
            )
    config = validate(ModelConfig, _read_yaml(directory / CONFIG), str(directory / CONFIG))
    channels, side, _ = config.latent_shape
    backbone = BACKBONES.build(config.model).build(side, channels, config.num_classes)
    try:
        backbone.load_state_dict(load_file(directory / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{directory / WEIGHTS} does not fit {CONFIG}, or is damaged: {str(error)[:500]}. Export it again: rerun "
            f"the training command with the same run_dir."
        ) from None
    return LoadedModel(backbone.to(device).eval(), Diffusion(**config.diffusion), config)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}. Export the model again.") from None


def _plain(value: Any) -> Any:
    """Tuples as lists, so that the YAML stays readable."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
