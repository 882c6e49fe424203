"""The interface of readers: the samples of one rank's micro-batches, in an order that a resume continues exactly."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from latentdebias.batches.plan import BatchPlan
from latentdebias.shards.format import Manifest

Views = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A function that reads one micro-batch of B samples, with those mirrored where `flipped` (bool `(B,)`) is true.

It takes `flipped`, and gives the stored values `(B, *stored_shape)` and the labels (int64 `(B,)`, -1: none).
"""


class TrainingSet(ABC):
    """An open shard set, which deals its samples to the ranks of a run."""

    manifest: Manifest

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape `(C, h, w)` of one latent."""
        return self.manifest.latent_shape

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 for a set without labels."""
        return self.manifest.num_classes

    @abstractmethod
    def samples(self, plan: BatchPlan, micro_steps: range) -> Iterator[Views]:
        """For each of `micro_steps`, a function that reads the samples which the rank of `plan` trains in it.

        The function takes bool `(B,)`, which views are mirrored, and gives stored values `(B, *stored_shape)` and int64
        labels `(B,)`.

        Which samples these are does not depend on where `micro_steps` begin.

        Raises `UserError` where a shard is missing, cut short or holds what no shard may hold.
        """

    def workers_used(self, workers: int) -> int:
        """How many of `workers` processes read ahead; worker i of n reads every n-th micro-step from the i-th on."""
        return workers

    def resume_settings(self, world_size: int) -> dict[str, Any]:
        """The settings, beside `data.order`, that a resume may not change, for they decide which samples follow."""
        return {}
