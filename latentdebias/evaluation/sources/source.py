"""The contract of a source of images to score, which gives batches of uint8 images in a fixed order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from latentdebias.errors import UserError


@dataclass(frozen=True)
class ImageBatch:
    """A batch of images (B, 3, H, W) uint8, and their classes (B,) int64 or None."""

    images: Tensor
    labels: Tensor | None = None

    def first(self, count: int | None) -> "ImageBatch":
        """The first `count` images of the batch; all of them where `count` is None."""
        return ImageBatch(self.images[:count], None if self.labels is None else self.labels[:count])


class ImageSource(Protocol):
    """A set of images that can be read any number of times, each time in the same order."""

    @property
    def count(self) -> int: ...

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the labels; None where there are no labels, or the number is unknown."""

    def __iter__(self) -> Iterator[ImageBatch]: ...

    def batches(self, rank: int, world_size: int) -> Iterator[ImageBatch]:
        """Every `world_size`-th of the batches that iteration gives, starting with number `rank`."""


class IndexedSource(ImageSource, Protocol):
    """An image source from which any images can be read, by their numbers."""

    @property
    def batch_size(self) -> int: ...

    def read(self, indices: np.ndarray) -> ImageBatch:
        """The images with the numbers `indices` (B,) int64, and their labels."""


class Indexed:
    """Base class that implements iteration and `batches` of an `IndexedSource` by its `read`."""

    def __iter__(self: IndexedSource) -> Iterator[ImageBatch]:
        return self.batches(0, 1)

    def batches(self: IndexedSource, rank: int, world_size: int) -> Iterator[ImageBatch]:
        """Every `world_size`-th batch of `batch_size` images, starting with number `rank`."""
        for start in range(rank * self.batch_size, self.count, world_size * self.batch_size):
            yield self.read(np.arange(start, min(start + self.batch_size, self.count)))


@dataclass(frozen=True)
class EvenlySpaced(Indexed):
    """`num` images of a source at equal distances, which come from all classes of a source sorted by class.

    Raises `UserError` where the source has fewer images.
    """

    source: IndexedSource
    num: int

    def __post_init__(self) -> None:
        if self.num > self.source.count:
            raise UserError(
                f"{self.num} images are asked for, and there are {self.source.count}; ask for at most that: --num N."
            )

    @property
    def count(self) -> int:
        return self.num

    @property
    def batch_size(self) -> int:
        return self.source.batch_size

    @property
    def num_classes(self) -> int | None:
        return self.source.num_classes

    def read(self, indices: np.ndarray) -> ImageBatch:
        """Images number `indices` (B,) int64 of the `num` images."""
        return self.source.read(indices * self.source.count // self.num)


def channels_first(images: np.ndarray) -> Tensor:
    """uint8 images with channels last to a tensor with channels first: (B, H, W, 3) -> (B, 3, H, W)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
