"""From a trained backbone to pictures: draw, decode, and lay out a grid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid
from tqdm import tqdm

from latentdebias import distributed
from latentdebias.autoencoders import Autoencoder, to_uint8
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.drawing.decoding import decoded
from latentdebias.drawing.grid import beside_rows
from latentdebias.precision import computing_in
from latentdebias.sampling import DrawOptions, LatentModel, check_draw
from latentdebias.sampling.denoiser import Observe

SMALLEST_TILE = 96


@dataclass(frozen=True)
class ImageSampler:
    """Draws images: a model of latents, with all that stands between its latents and pixels.

    `observe` is told of every estimate of x0 on the way; `Trajectory` is such an observer.
    """

    model: LatentModel
    normalization: LatentNormalization
    autoencoder: Autoencoder
    observe: Observe | None = None

    def compiled(self) -> "ImageSampler":
        """The same sampler with its networks under `torch.compile`."""
        return replace(self, model=self.model.compiled())

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put other weights into the network that is drawn from."""
        self.model.network.backbone.load_state_dict(weights)

    def draw(self, labels: Tensor, options: DrawOptions, batches: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Batches of images (B, 3, H, W) uint8, on the CPU, for `labels` (N,); image i depends on (seed, i) alone.

        `batches` are the numbers of the batches to draw; None draws all. Raises `UserError` where `check_draw` does.
        """
        check_draw(options, self.model.facts)
        device = self.autoencoder.device
        latents = self.model.sampler(options, self.observe).draw(labels.to(device), options, batches)
        total = len(labels) if batches is None else min(len(labels), len(batches) * options.batch_size)
        with tqdm(total=total, desc="sample", unit="image", disable=distributed.rank() != 0) as progress:
            for images in decoded(latents, self.pixels, device):
                progress.update(len(images))
                yield images

    def pixels(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 of normalised latents (B, C, h, w), decoded in fp32 however they were drawn."""
        with computing_in("fp32"):
            return to_uint8(self.autoencoder.decode(self.normalization.denormalize(z)))


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
