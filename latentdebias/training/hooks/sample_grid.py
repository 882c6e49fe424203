"""Pictures while training: a guided grid drawn with the EMA weights, from the same seed each time."""

from dataclasses import dataclass, replace

import torch
from pydantic import PositiveInt
from torch import Tensor

from latentdebias.drawing.image_sampler import labels_by_class, save_grid
from latentdebias.process_groups import gathered_in_turn, ranks
from latentdebias.registry import option
from latentdebias.sampling import DrawOptions, Guidance
from latentdebias.training.hooks.hook import HookContext
from latentdebias.training.hooks.with_average import load_everywhere

MAX_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(DrawOptions):
    """The `sampling` section of a run config: how the grids in `samples/` are drawn."""

    per_class: PositiveInt = option(4, "images of each class")

    def for_classes(self, num_classes: int) -> "SamplingOptions":
        """These options, without guidance where there are no classes to guide towards."""
        return self if num_classes else replace(self, guidance=Guidance(1.0))


class SampleGrid:
    """Draws `samples/step-N.png`: up to ten classes, a row each beside its name; the log shows it as well.

    The ranks share the batches of images, so the picture is the same for any number of ranks.
    """

    def __init__(self, options: SamplingOptions, run: HookContext) -> None:
        self.run, self.sampler = run, run.open_image_sampler()
        self.options = options.for_classes(self.sampler.model.num_classes)

    def __call__(self, step: int, weights: dict[str, Tensor]) -> None:
        """Draw with the whole state dict `weights` of rank 0; every rank must call it."""
        load_everywhere(self.sampler, weights)
        classes = list(range(min(self.sampler.model.num_classes or 1, MAX_CLASSES)))
        labels = labels_by_class(classes, self.options.per_class)
        rank, world_size = ranks()
        numbers = range(rank, -(-len(labels) // self.options.batch_size), world_size)
        batches = gathered_in_turn(list(self.sampler.draw(labels, self.options, numbers)))
        if rank == 0:
            self._write(step, torch.cat(batches), classes)

    def _write(self, step: int, images: Tensor, classes: list[int]) -> None:
        path = self.run.run_dir / "samples" / f"step-{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_grid(images, self.options.per_class, path, self.run.manifest.class_names[: len(classes)])
        if self.run.log is not None:
            self.run.log.write_image("samples", step, path)
