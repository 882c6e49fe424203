"""A model as a source of images, which are drawn while they are scored."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from latentdebias.drawing.image_sampler import ImageSampler, labels_in_turn
from latentdebias.evaluation.sources.source import ImageBatch
from latentdebias.sampling import DrawOptions


@dataclass(frozen=True)
class GeneratedImages:
    """An `ImageSource` of images drawn for `labels` `(N,)`; iterating again draws the same images again."""

    sampler: ImageSampler
    labels: Tensor
    options: DrawOptions

    @classmethod
    def evenly(cls, sampler: ImageSampler, count: int, options: DrawOptions) -> "GeneratedImages":
        """`count` images, spread evenly over the model's classes."""
        return cls(sampler, labels_in_turn(list(range(sampler.model.num_classes or 1)), count), options)

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int | None:
        return self.sampler.model.num_classes or None

    def __iter__(self) -> Iterator[ImageBatch]:
        return self.batches(0, 1)

    def batches(self, rank: int, world_size: int) -> Iterator[ImageBatch]:
        """Every `world_size`-th batch, from number `rank` on.

        Ranks get whole batches, because the size of a batch may change the last bits of an image.
        """
        size = self.options.batch_size
        numbers = range(rank, -(-self.count // size), world_size)
        for number, images in zip(numbers, self.sampler.draw(self.labels, self.options, numbers), strict=True):
            yield ImageBatch(images, self.labels[number * size : (number + 1) * size])
