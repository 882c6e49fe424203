"""Where images to score come from: each source gives batches of uint8 images, in a fixed order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

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

    def batches(self, rank: int, world_size: int) -> Iterator[ImageBatch]:
        """Every `world_size`-th of the batches that iterating gives, from number `rank` on."""


class IndexedSource(ImageSource, Protocol):
    """Images that can be read in any choice."""

    @property
    def batch_size(self) -> int: ...

    def read(self, indices: np.ndarray) -> ImageBatch:
        """Images number `indices` (B,), int64."""


class Indexed:
    """What makes batches out of `count`, `batch_size` and `read`."""

    def __iter__(self: IndexedSource) -> Iterator[ImageBatch]:
        return self.batches(0, 1)

    def batches(self: IndexedSource, rank: int, world_size: int) -> Iterator[ImageBatch]:
        """As `ImageSource.batches`."""
        for start in range(rank * self.batch_size, self.count, world_size * self.batch_size):
            yield self.read(np.arange(start, min(start + self.batch_size, self.count)))


@dataclass(frozen=True)
class EvenlySpaced(Indexed):
    """`num` images of a source at equal distances, so of all its classes, whose images stand together.

    `UserError` where the source holds fewer.
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
        """As `IndexedSource.read`."""
        return self.source.read(indices * self.source.count // self.num)


def channels_first(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> (B, 3, H, W)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
