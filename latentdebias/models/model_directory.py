"""A model directory: `model.safetensors` (weights) and `config.yaml`, all that sampling needs but the autoencoder."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from latentdebias.autoencoders import AutoencoderIdentity, load_this_autoencoder
from latentdebias.backbones import BACKBONES
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.spec_versions import of_version_1
from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.errors import UserError, command
from latentdebias.files import parse_yaml, publish, published_folder, sha256_of
from latentdebias.registry import load_plugins, plain, validate
from latentdebias.sampling import LatentModel, Network
from latentdebias.shards.format import NumClasses, Side

FORMAT_VERSION = 2
CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The contents of a model directory's `config.yaml`.

    `num_classes` is 0 for an unconditional model; otherwise label `num_classes` is the null class. `step` is the
    training step of the weights, and `ema` names how they were averaged, such as 0.9999, std0.050 or none. `imports`
    lists the Python modules that register parts of the model from outside this package.
    """

    format_version: int = FORMAT_VERSION
    imports: list[str] = field(default_factory=list)
    model: dict[str, Any]
    diffusion: dict[str, Any]
    latent_shape: tuple[Side, Side, Side]
    num_classes: NumClasses
    class_names: list[str]
    normalization: LatentNormalization
    resolution: int
    autoencoder: AutoencoderIdentity
    step: int
    ema: str


@dataclass(frozen=True)
class LoadedModel:
    """A trained model: its network `backbone(z, t, y)`, the `diffusion` it was trained under, and its `config`.

    `weaker` is the network of another model that guides this one (autoguidance), or None.
    """

    backbone: nn.Module
    diffusion: Diffusion
    config: ModelConfig
    weaker: Network | None = None

    def guided_by(self, weaker: "LoadedModel") -> "LoadedModel":
        """This model guided by a weaker one; `UserError` unless latents, classes, autoencoder and schedule agree."""
        for name in ("latent_shape", "num_classes", "normalization", "autoencoder"):
            ours, theirs = getattr(self.config, name), getattr(weaker.config, name)
            if ours != theirs:
                raise UserError(
                    f"The autoguidance model's {name} is {theirs}, and this model's is {ours}; choose a weaker model "
                    f"of the same latents and classes, such as a smaller one or an earlier checkpoint."
                )
        if weaker.diffusion.schedule != self.diffusion.schedule:
            raise UserError(
                f"The autoguidance model has schedule {weaker.diffusion.spec()['schedule']}, and this model has "
                f"{self.diffusion.spec()['schedule']}; choose a weaker model of the same schedule."
            )
        return dataclasses.replace(self, weaker=Network(weaker.backbone, weaker.diffusion))

    @property
    def latent_model(self) -> LatentModel:
        """The network, its weaker guide, and the shape and classes of its latents: what draws latents."""
        network = Network(self.backbone, self.diffusion)
        return LatentModel(network, self.config.latent_shape, self.config.num_classes, self.weaker)

    def image_sampler(self, vae: str | None = None) -> ImageSampler:
        """The model with its autoencoder, on the model's device, which draws images.

        `vae` is the autoencoder's name or path; None is the name in `config`. Raises `UserError` where it is not the
        autoencoder that the model was trained with.
        """
        config, device = self.config, next(self.backbone.parameters()).device
        autoencoder = load_this_autoencoder(config.autoencoder, vae or config.autoencoder.id, device)
        return ImageSampler(self.latent_model, config.normalization, autoencoder)


def save_model(directory: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Write a model directory; an older one is replaced only when the new one is complete."""
    with published_folder(directory) as fresh:
        publish(fresh / WEIGHTS, save({name: weight.contiguous() for name, weight in weights.items()}))
        write_model_config(fresh / CONFIG, config)


def write_model_config(path: Path, config: ModelConfig) -> None:
    """Write `config` as YAML to `path`, for `read_model_config` to read."""
    publish(path, yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False).encode())


def read_model_config(path: Path) -> ModelConfig:
    """The config in the YAML file `path`, of any format version so far; `UserError` if missing, damaged or newer."""
    values = _read_yaml(path)
    version = values.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, and this version of latentdebias reads 1 to {FORMAT_VERSION}; "
            f"install a newer version of latentdebias."
        )
    if version == 1 and isinstance(values.get("diffusion"), Mapping):
        values |= {"format_version": FORMAT_VERSION, "diffusion": of_version_1(values["diffusion"])}
    return validate(ModelConfig, values, str(path))


def load_model(directory: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """Load a model directory onto `device`, in evaluation mode; `UserError` if a file is missing or damaged."""
    directory = Path(directory)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise UserError(
                f"{directory} is no model directory: it has no {name}. A training run writes one to RUN_DIR/model; "
                f"train with: {command('train')} --config NAME"
            )
    config = read_model_config(directory / CONFIG)
    try:
        backbone, diffusion = build_model(config)
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise UserError(f"The network of {directory / CONFIG} cannot be built: {str(error)[:300]}.") from None
    try:
        backbone.load_state_dict(load_file(directory / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{directory / WEIGHTS} does not fit {CONFIG}, or is damaged: {str(error)[:500]}. Export it again: rerun "
            f"the training command with the same run_dir."
        ) from None
    return LoadedModel(backbone.to(device).eval(), diffusion, config)


def fingerprint(directory: Path) -> dict[str, str]:
    """The sha256 of a model directory's two files: `config_sha256` and `weights_sha256`."""
    return {"config_sha256": sha256_of(directory / CONFIG), "weights_sha256": sha256_of(directory / WEIGHTS)}


def build_model(config: ModelConfig) -> tuple[nn.Module, Diffusion]:
    """The network that `config` describes, with initial weights, and its diffusion process."""
    load_plugins(config.imports)
    channels, side, _ = config.latent_shape
    try:
        diffusion = Diffusion(**config.diffusion)
    except TypeError as error:
        raise UserError(f"The model's diffusion is {config.diffusion}, which is no process ({error}).") from None
    out_chans = diffusion.variance.outputs * channels
    return BACKBONES.build(config.model).build(side, channels, config.num_classes, out_chans), diffusion


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_yaml(path.read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}. Export the model again.") from None
