"""Where images to score come from: each source iterates over batches of uint8 images, in a fixed order."""

import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentdebias.autoencoders import to_uint8
from latentdebias.data.images import ImageSet, SourceImage, find_images
from latentdebias.data.posterior import latent_means
from latentdebias.data.preprocess import centre_crop, decode_image
from latentdebias.data.reader import LatentShards
from latentdebias.data.shards import MANIFEST, read_manifest
from latentdebias.errors import UserError


@dataclass(frozen=True)
class ImageBatch:
    """uint8 images (B, 3, H, W) and the classes (B,) int64 that they are of, or None."""

    images: Tensor
    labels: Tensor | None = None

    def first(self, count: int | None) -> "ImageBatch":
        """The batch cut to its first `count` images; None leaves it whole."""
        return ImageBatch(self.images[:count], None if self.labels is None else self.labels[:count])


class ImageSource(Protocol):
    """A set of images that can be read again and again, each time in the same order."""

    @property
    def count(self) -> int: ...

    @property
    def num_classes(self) -> int | None:
        """How many classes the labels are of; None where there are no labels, or no telling."""

    def __iter__(self) -> Iterator[ImageBatch]: ...


class Decoder(Protocol):
    """What a latent shard set asks of an autoencoder."""

    @property
    def identity(self) -> Any:
        """Holds `id` and `weights_sha256`, as the manifest of the shards does."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of unscaled latents (B, C, h, w)."""


def open_images(
    path: str, resolution: int, load_autoencoder: Callable[[str], Decoder], batch_size: int = 64
) -> ImageSource:
    """The images at `path`: latent shards (a folder with a manifest), an `.npz` of samples, or image files.

    `load_autoencoder` is called with the id in the shards' manifest, and only for shards. `resolution` serves
    image files, which alone have to be brought to one size.
    """
    if (Path(path) / MANIFEST).is_file():
        shards = LatentShards(path)
        return ShardImages(shards, load_autoencoder(shards.manifest.autoencoder["id"]), batch_size)
    if path.endswith(".npz"):
        return NpzImages(path, batch_size)
    return FolderImages(path, resolution, batch_size)


def resolution_of(path: str) -> int:
    """The side of the images at `path` in pixels, of image files that of the first; `UserError` if it is unusable."""
    if (Path(path) / MANIFEST).is_file():
        return read_manifest(Path(path)).resolution
    if path.endswith(".npz"):
        return NpzImages(path).resolution
    with _usable(path, find_images(path).images[0]) as image:
        return min(image.size)


@dataclass(frozen=True)
class EvenlySpaced:
    """`count` images of a source at equal distances, so of all its classes, whose images stand together.

    `UserError` where the source holds fewer.
    """

    source: ImageSource
    count: int

    def __post_init__(self) -> None:
        if self.count > self.source.count:
            raise UserError(
                f"{self.count} images are asked for, and there are {self.source.count}; ask for at most that: --num N."
            )

    @property
    def num_classes(self) -> int | None:
        return self.source.num_classes

    def __iter__(self) -> Iterator[ImageBatch]:
        chosen = torch.arange(self.count) * self.source.count // self.count
        start = 0
        for batch in self.source:
            end = start + len(batch.images)
            rows = chosen[(chosen >= start) & (chosen < end)] - start
            if len(rows):
                yield ImageBatch(batch.images[rows], None if batch.labels is None else batch.labels[rows])
            start = end


@dataclass(frozen=True)
class FolderImages:
    """Image files as `latentdebias.data.images.find_images` lists them: class folders, one folder, or tars.

    Each goes through ADM's centre crop to `resolution`, which leaves an image of that size as it is. An
    undecodable image raises `UserError`: leaving it out would change the score in silence.
    """

    path: str
    resolution: int
    batch_size: int = 64

    @cached_property
    def _listing(self) -> ImageSet:
        return find_images(self.path)

    @property
    def count(self) -> int:
        return len(self._listing.images)

    @property
    def num_classes(self) -> int | None:
        return self._listing.num_classes or None

    def __iter__(self) -> Iterator[ImageBatch]:
        with ThreadPoolExecutor() as threads:
            for start in range(0, self.count, self.batch_size):
                sources = self._listing.images[start : start + self.batch_size]
                pixels = np.stack(list(threads.map(self._pixels, sources)))
                labels = torch.tensor([source.label for source in sources]) if self.num_classes else None
                yield ImageBatch(_channels_first(pixels), labels)

    def _pixels(self, source: SourceImage) -> np.ndarray:
        """uint8 (resolution, resolution, 3)."""
        with _usable(self.path, source) as image:
            return centre_crop(image, self.resolution)


@contextmanager
def _usable(path: str, source: SourceImage) -> Iterator[Image.Image]:
    """The decoded image, in a block whose failures are a `UserError`."""
    try:
        if source.fault:
            raise ValueError(source.fault)
        yield decode_image(source.read())
    # Pillow's readers raise whatever the bytes lead them to, struct.error and SyntaxError among it.
    except Exception as error:
        raise UserError(
            f"Cannot score {path}: its image {source.name!r} is unusable ({error}). Remove or replace it."
        ) from error


@dataclass(frozen=True)
class NpzImages:
    """A sample batch in ADM's format: `arr_0` uint8 (N, H, W, 3), and optionally labels `arr_1` (N,) of integers.

    The whole array is held in memory: 9.8 GB for 50,000 images of 256x256. `UserError` for any other file.
    """

    path: str
    batch_size: int = 64

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                images = arrays["arr_0"]
                labels = arrays.get("arr_1")
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self.path} is not readable as an .npz of samples ({error}); it must hold `arr_0`, "
                f"uint8 (N, H, W, 3), as `tools/sample.py --npz FILE` writes it."
            ) from error
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(
                f"{self.path}: `arr_0` is {images.dtype} {images.shape}, and must be uint8 (N, H, W, 3), as "
                f"`tools/sample.py --npz FILE` writes it."
            )
        if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
            raise UserError(
                f"{self.path}: `arr_1` is {labels.dtype} {labels.shape}, and must be integers "
                f"({len(images)},), one label for each image of `arr_0`."
            )
        return images, labels

    @property
    def count(self) -> int:
        return len(self._arrays[0])

    @property
    def resolution(self) -> int:
        return min(self._arrays[0].shape[1:3])

    @property
    def num_classes(self) -> int | None:
        return None

    def __iter__(self) -> Iterator[ImageBatch]:
        images, labels = self._arrays
        for start in range(0, self.count, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield ImageBatch(
                _channels_first(images[rows]),
                None if labels is None else torch.from_numpy(labels[rows].astype(np.int64)),
            )


@dataclass(frozen=True)
class ShardImages:
    """Latent shards, decoded from their posterior means without mirrored views.

    These are the autoencoder's reconstructions: against them a score leaves the decoder's own error out.
    Raises `UserError` where the shards were made with another autoencoder's weights.
    """

    shards: LatentShards
    autoencoder: Decoder
    batch_size: int = 64

    def __post_init__(self) -> None:
        made_with, given = self.shards.manifest.autoencoder, self.autoencoder.identity
        if made_with["weights_sha256"] != given.weights_sha256:
            raise UserError(
                f"The latents in {self.shards.directory} were made with the autoencoder {made_with['id']!r} (weights "
                f"{made_with['weights_sha256'][:12]}), and {given.id!r} ({given.weights_sha256[:12]}) cannot "
                f"decode them: pass the first one, or encode again with tools/encode.py --vae {given.id}."
            )

    @property
    def count(self) -> int:
        return len(self.shards)

    @property
    def num_classes(self) -> int | None:
        return self.shards.num_classes or None

    def __iter__(self) -> Iterator[ImageBatch]:
        for start in range(0, self.count, self.batch_size):
            indices = np.arange(start, min(start + self.batch_size, self.count))
            stored, labels = self.shards.read(indices, flipped=np.zeros(len(indices), dtype=bool))
            means = latent_means(torch.from_numpy(stored), self.shards.manifest)
            images = to_uint8(self.autoencoder.decode(means))
            yield ImageBatch(images, torch.from_numpy(labels) if self.num_classes else None)


def _channels_first(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> (B, 3, H, W)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
