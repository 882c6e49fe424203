"""What all importers of published checkpoints share: reading sizes from shapes, and writing the model directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import ResNet50_Weights

from latentdebias.autoencoders import PIXELS, AutoencoderIdentity, PixelAutoencoder, load_autoencoder
from latentdebias.backbones import BACKBONES, BackboneSpec
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.diffusion import Diffusion
from latentdebias.errors import UserError, command
from latentdebias.interop.published.checkpoint_file import CheckpointFile
from latentdebias.models.init_from import check_fit, shapes_of
from latentdebias.models.model_directory import ModelConfig, save_model

IMAGENET_CLASSES = 1000
PIXEL_CHANNELS = 3
# Stable Diffusion's first autoencoders: 4 channels, 8 pixels per latent.
SD_SCALING_FACTOR = 0.18215
SD_CHANNELS = 4
SD_FACTOR = 8
AVERAGE = "published"
# The variance by the number of output channels for each input channel.
VARIANCES = {1: "fixed", 2: "learned_range"}


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a user states about a checkpoint, because its file may not say it.

    `vae` is the id or folder of the autoencoder of the latents, whose sha256 is then recorded; without it the model
    directory names the authors' autoencoder, without a sha256. `heads` and `num_classes` override what is inferred.
    """

    vae: str | None = None
    heads: int | None = None
    num_classes: int | None = None


@dataclass(frozen=True)
class Published:
    """A network read from a checkpoint, on latents (`channels`, `side`, `side`).

    `weights` are under our names; the class table, if there is one, has the null class as its last row.
    """

    spec: BackboneSpec
    diffusion: Diffusion
    channels: int
    side: int
    num_classes: int
    weights: dict[str, Tensor]


def write_published(model: Published, source: CheckpointFile, out: Path, default_vae: str, vae: str | None) -> None:
    """Write the model directory `out` of the network `model` that was read from `source`.

    Raises `UserError` where a weight or the autoencoder does not fit the network.
    """
    identity = autoencoder_of(model.channels, default_vae, vae)
    save_fitting(model, str(source.path), out, identity, class_names(model.num_classes))


def save_fitting(model: Published, source: str, out: Path, autoencoder: AutoencoderIdentity, names: list[str]) -> None:
    """Write the model directory `out`; `UserError` names the first key of `source` that does not fit the network."""
    out_chans = model.diffusion.variance.outputs * model.channels
    with torch.device("meta"):
        network = model.spec.build(model.side, model.channels, model.num_classes, out_chans)
    mend = (
        "Its sizes were read from its own shapes, so it is of another architecture, or was trained with options that "
        f"the published one has not; import it with the command of its own family (see {command('export')} --help)."
    )
    check_fit(network, shapes_of(model.weights), source, mend)
    scaling, channels = autoencoder.scaling_factor, model.channels
    config = ModelConfig(
        model=BACKBONES.spec_of(model.spec),
        diffusion=model.diffusion.spec(),
        latent_shape=(channels, model.side, model.side),
        num_classes=model.num_classes,
        class_names=names,
        normalization=LatentNormalization((autoencoder.shift_factor,) * channels, (1 / scaling,) * channels),
        resolution=model.side * autoencoder.factor,
        autoencoder=autoencoder,
        step=0,
        ema=AVERAGE,
    )
    save_model(out, config, model.weights)


def autoencoder_of(channels: int, default_vae: str, vae: str | None) -> AutoencoderIdentity:
    """The autoencoder of latents with `channels` channels: `vae` if given, pixels for 3 channels, else `default_vae`.

    Raises `UserError` where its latents have another number of channels.
    """
    if vae is not None:
        identity = load_autoencoder(vae).identity
    elif channels == PIXEL_CHANNELS:
        identity = PixelAutoencoder().identity
    else:
        identity = AutoencoderIdentity(default_vae, "", "", SD_SCALING_FACTOR, 0.0, SD_CHANNELS, SD_FACTOR)
    if identity.channels != channels:
        raise UserError(
            f"The checkpoint's latents have {channels} channels, and those of autoencoder {identity.id!r} have "
            f"{identity.channels}; say which one it was trained on: --vae ID_OR_DIR ({PIXELS!r} for pixels)."
        )
    return identity


def class_names(num_classes: int) -> list[str]:
    """ImageNet's names for 1000 classes, numbers for any other count."""
    if num_classes == IMAGENET_CLASSES:
        return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    return [str(label) for label in range(num_classes)]


class ShapeReader:
    """Reads the sizes of a network from its weights; `UserError` where the weights are not those of `family`."""

    def __init__(self, file: CheckpointFile, family: str, heads_by_width: Mapping[int, int]) -> None:
        self.file, self.family, self.heads_by_width = file, family, heads_by_width

    def size(self, key: str, axis: int) -> int:
        """The length of axis `axis` of the weight `key`."""
        if key not in self.file.weights:
            raise UserError(
                f"{self.file.path} has no {key}, so it is no checkpoint of {self.family}; its first keys are "
                f"{', '.join(list(self.file.weights)[:5])}. Import it with the command of its own family."
            )
        shape = self.file.weights[key].shape
        if len(shape) <= axis:
            raise UserError(f"{self.file.path} has {key} with shape {tuple(shape)}, which {self.family}'s is not.")
        return shape[axis]

    def depth(self, blocks: str) -> int:
        """The number of blocks whose names begin with `blocks` and a number; 0 where there are none."""
        start = f"{blocks}."
        numbers = {name.removeprefix(start).split(".")[0] for name in self.file.weights if name.startswith(start)}
        return max((int(number) for number in numbers if number.isdigit()), default=-1) + 1

    def heads(self, width: int, given: int | None) -> int:
        """The number of attention heads, which no shape tells: `given`, or else as published for the width."""
        if given is None and width not in self.heads_by_width:
            raise UserError(
                f"{self.file.path} is {width} wide, and published ones are {', '.join(map(str, self.heads_by_width))}; "
                f"no shape tells the number of attention heads, so say it: --heads N"
            )
        return self.heads_by_width[width] if given is None else given

    def side(self, tokens: int, patch_size: int) -> int:
        """The side of the square latents that `tokens` square patches of side `patch_size` tile."""
        if isqrt(tokens) ** 2 != tokens:
            raise UserError(f"{self.file.path}: pos_embed has {tokens} patches, which tile no square latent.")
        return isqrt(tokens) * patch_size

    def classes(self, table: str, given: int | None) -> tuple[dict[str, Tensor], int]:
        """The weights, with the null class in the last row of the class table, and the number of classes (0: no table).

        Without `given`, the number of classes, the last row is taken for the null class, unless the table has 1000
        rows: that is ImageNet without a null class. A missing null class is added as the mean of the other rows;
        guidance has no meaning for such a model until it is trained with label_drop.
        """
        weights = dict(self.file.weights)
        if table not in weights:
            return weights, 0
        rows = self.size(table, 0)
        count = given if given is not None else rows if rows == IMAGENET_CLASSES else rows - 1
        if rows == count:
            weights[table] = torch.cat([weights[table], weights[table].mean(dim=0, keepdim=True)])
        elif rows != count + 1:
            raise UserError(
                f"{self.file.path} has {table} of {rows} rows, which is not {count} classes; give --num-classes "
                f"{rows - 1} if the last row is the null class, {rows} if there is none."
            )
        return weights, count
