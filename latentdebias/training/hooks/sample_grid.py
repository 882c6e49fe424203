"""Pictures while training: a guided grid drawn with the EMA weights, from the same seed each time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import PositiveInt
from torch import Tensor

from latentdebias.drawing.image_sampler import ImageSampler, labels_by_class, save_grid
from latentdebias.registry import option
from latentdebias.sampling import DrawOptions, Guidance

MAX_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(DrawOptions):
    """The `sampling` section of a run config: how the grids in `samples/` are drawn."""

    per_class: PositiveInt = option(4, "images of each class", on_resume="free")

    def for_classes(self, num_classes: int) -> "SamplingOptions":
        """These options, without guidance where there are no classes to guide towards."""
        return self if num_classes else replace(self, guidance=Guidance(1.0))


class SampleGrid:
    """Draws `samples/step-N.png`: up to ten classes, a row each beside its name; `show` is told of the file."""

    def __init__(
        self,
        directory: Path,
        sampler: ImageSampler,
        options: SamplingOptions,
        class_names: list[str],
        show: Callable[[int, Path], None],
    ) -> None:
        self.directory, self.sampler, self.class_names, self.show = directory, sampler, class_names, show
        self.options = options.for_classes(sampler.model.num_classes)

    def __call__(self, step: int, weights: dict[str, Tensor]) -> None:
        self.sampler.load_weights(weights)
        classes = list(range(min(self.sampler.model.num_classes or 1, MAX_CLASSES)))
        labels = labels_by_class(classes, self.options.per_class)
        images = torch.cat(list(self.sampler.draw(labels, self.options)))
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"step-{step:08d}.png"
        save_grid(images, self.options.per_class, path, self.class_names[: len(classes)])
        self.show(step, path)
