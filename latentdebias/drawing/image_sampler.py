"""From a trained backbone to pictures: draw, decode, and lay out a grid."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from PIL import Image
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torchvision.utils import make_grid
from tqdm import tqdm

from latentdebias import distributed
from latentdebias.autoencoders import Autoencoder, to_uint8
from latentdebias.backbones.spec import Precision
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.diffusion import Diffusion
from latentdebias.drawing.decoding import decoded
from latentdebias.drawing.grid import beside_rows
from latentdebias.errors import UserError
from latentdebias.registry import Spec
from latentdebias.sampling.denoiser import Observe
from latentdebias.sampling.generate import generate
from latentdebias.sampling.guidance import Guided
from latentdebias.sampling.guidance_options import GuidanceOptions
from latentdebias.sampling.network import Network
from latentdebias.sampling.samplers import SAMPLERS

SMALLEST_TILE = 96


@dataclass(frozen=True, kw_only=True)
class DrawOptions(GuidanceOptions):
    """How images are drawn; `precision` is that of the backbone."""

    sampler: Spec = "ddim"
    steps: PositiveInt = 50
    seed: NonNegativeInt = 0
    batch_size: PositiveInt = 64
    precision: Precision = "fp32"


def check_draw(
    options: DrawOptions, diffusion: Diffusion, num_classes: int, channels: int, weaker: Network | None = None
) -> None:
    """Raise `UserError` for a sampler or guidance that a model of so many classes and latent channels cannot have."""
    sampler = SAMPLERS.build(options.sampler)
    sampler.check(diffusion, options.steps)
    options.check(diffusion, num_classes, channels, weaker)
    if options.zero_init >= options.steps:
        raise UserError(f"zero_init is {options.zero_init} of {options.steps} steps: nothing would be drawn; lower it.")
    if options.zero_init and sampler.adds_noise():
        raise UserError(
            f"zero_init is {options.zero_init}, and sampler {options.sampler!r} adds noise, so its first steps would "
            f"not stand still; use one that adds none, such as euler or heun."
        )


@dataclass(frozen=True)
class ImageSampler:
    """A backbone with all that stands between its latents and pixels.

    `weaker` guides it by autoguidance; `observe` is told of every estimate of x0, such as a `Trajectory`.
    """

    backbone: nn.Module
    diffusion: Diffusion
    normalization: LatentNormalization
    autoencoder: Autoencoder
    latent_shape: tuple[int, int, int]
    num_classes: int
    weaker: Network | None = None
    observe: Observe | None = None

    def compiled(self) -> "ImageSampler":
        """The same sampler with its networks under `torch.compile`.

        Every batch size gets kernels of its own, so that what a batch becomes does not depend on those before it.
        """
        weaker = self.weaker and replace(self.weaker, backbone=_compiled(self.weaker.backbone))
        return replace(self, backbone=_compiled(self.backbone), weaker=weaker)

    def draw(self, labels: Tensor, options: DrawOptions, batches: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Batches of images `(B, 3, H, W)` uint8, on the CPU, for `labels` `(N,)`; image i depends on (seed, i) alone.

        `batches` are the numbers of those that are drawn, None: all. Raises `UserError` where `check_draw` does.
        """
        check_draw(options, self.diffusion, self.num_classes, self.latent_shape[0], self.weaker)
        network = Network(self.backbone, self.diffusion)
        latents = generate(
            Guided(network, options, self.num_classes, self.weaker, options.precision),
            self.diffusion,
            SAMPLERS.build(options.sampler),
            labels.to(self.autoencoder.device),
            self.latent_shape,
            options.seed,
            options.steps,
            options.batch_size,
            options.zero_init,
            batches,
            self.observe,
        )
        total = len(labels) if batches is None else min(len(labels), len(batches) * options.batch_size)
        with tqdm(total=total, desc="sample", unit="image", disable=distributed.rank() != 0) as progress:
            for images in decoded(latents, self.pixels, self.autoencoder.device):
                progress.update(len(images))
                yield images

    def pixels(self, z: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` uint8 of normalised latents `(B, C, h, w)`."""
        return to_uint8(self.autoencoder.decode(self.normalization.denormalize(z)))


def _compiled(network: nn.Module) -> nn.Module:
    return cast(nn.Module, torch.compile(network, dynamic=False))


def grid_image(images: Tensor, columns: int) -> Image.Image:
    """Images `(B, 3, H, W)` uint8 in rows of `columns`; small ones are enlarged to be seen."""
    enlarge = max(1, -(-SMALLEST_TILE // images.shape[-1]))
    tiles = images.repeat_interleave(enlarge, dim=-1).repeat_interleave(enlarge, dim=-2)
    return Image.fromarray(make_grid(tiles, nrow=columns, padding=2, pad_value=255).permute(1, 2, 0).numpy())


def save_grid(images: Tensor, columns: int, file: Path | BinaryIO, row_names: Sequence[str] = ()) -> None:
    """`grid_image` as a PNG, with a name beside each row."""
    grid = grid_image(images, columns)
    (beside_rows(grid, row_names) if row_names else grid).save(file, "PNG")


def labels_by_class(classes: list[int], per_class: int) -> Tensor:
    """`per_class` labels of each class in turn: `(len(classes) * per_class,)` int64."""
    return torch.tensor(classes).repeat_interleave(per_class)


def labels_in_turn(classes: list[int], count: int) -> Tensor:
    """`count` labels, spread evenly over `classes`: `(count,)` int64."""
    return torch.tensor(classes)[torch.arange(count) % len(classes)]


def labels_at_random(classes: list[int], count: int, seed: int) -> Tensor:
    """`count` labels, each equally likely one of `classes` and a function of (seed, index): `(count,)` int64."""
    # Another stream than that of `image_generator`.
    sources = (np.random.SeedSequence((seed, index), spawn_key=(0,)) for index in range(count))
    return torch.tensor([classes[np.random.default_rng(source).integers(len(classes))] for source in sources])
