"""Samples of a model, drawn as they are scored."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from latentdebias.evaluation.images import ImageBatch
from latentdebias.sampling.images import DrawOptions, ImageSampler


@dataclass(frozen=True)
class DrawnImages:
    """An `ImageSource` of images drawn for `labels` `(N,)`; every reading draws the same ones again."""

    sampler: ImageSampler
    labels: Tensor
    options: DrawOptions

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int | None:
        return self.sampler.num_classes or None

    def __iter__(self) -> Iterator[ImageBatch]:
        start = 0
        for images in self.sampler.draw(self.labels, self.options):
            yield ImageBatch(images, self.labels[start : start + len(images)])
            start += len(images)
