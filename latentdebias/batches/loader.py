"""Stateless training batches: every number in a batch is a function of (seed, position) and of the sample there.

Sample position = step * batch_size + row counts the samples of a run from 0. The reader says which sample is trained
there; its flip, label drop, posterior sample, timestep and noise come from a counter-based generator keyed by
(seed, position). So workers, resumes and micro-batches cannot change the training.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from latentdebias.batches.batch import Batch, StoredBatch
from latentdebias.batches.draws import NoiseSource, SampleDraws, SampleUniforms, device_noise
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.batches.options import DataOptions
from latentdebias.batches.plan import BatchPlan
from latentdebias.batches.reader import TrainingSet, Views
from latentdebias.errors import UserError
from latentdebias.images.find import NO_LABEL
from latentdebias.shards.posterior import draw_latents
from latentdebias.workers import outlast_signals, raised


class LatentBatches:
    """The batches of one rank of a run, without any state that a resume would have to restore."""

    def __init__(
        self, shards: TrainingSet, plan: BatchPlan, options: DataOptions, normalization: LatentNormalization
    ) -> None:
        check_flip(options, shards)
        self.shards, self.plan, self.options, self.normalization = shards, plan, options, normalization

    def loader(self, first_step: int, last_step: int, device: torch.device) -> Generator[Batch, None, None]:
        """The batches of steps [first_step, last_step) on `device`, read ahead by up to `data.workers` processes."""
        loader = DataLoader(
            _MicroSteps(self, self.plan.micro_steps(first_step, last_step)),
            batch_size=None,
            num_workers=self.shards.workers_used(self.options.workers),
            pin_memory=device.type == "cuda",
            worker_init_fn=outlast_signals,
        )
        for batch in raised(loader):
            yield self._with_noise(batch.to(device))

    def of(self, micro_steps: range) -> Iterator[Batch]:
        """The batches of `micro_steps` on the CPU, read in this process."""
        return map(self._with_noise, self.read(micro_steps))

    def read(self, micro_steps: range) -> Iterator[Batch | StoredBatch]:
        """The batches of `micro_steps` on the CPU, without their noise where `data.noise` is "device"."""
        reads: dict[NoiseSource, Callable[[int, Views], Batch | StoredBatch]] = {
            "host": self._batch,
            "device": self._stored_batch,
        }
        for micro_step, views in zip(micro_steps, self.shards.samples(self.plan, micro_steps), strict=True):
            yield reads[self.options.noise](micro_step, views)

    def _batch(self, micro_step: int, views: Views) -> Batch:
        positions = self.plan.positions(micro_step).tolist()
        draws = [SampleDraws.of(self.plan.seed, position, self.shards.latent_shape) for position in positions]
        posterior = torch.from_numpy(np.stack([draw.posterior for draw in draws]))
        eps = torch.from_numpy(np.stack([draw.eps for draw in draws]))
        return self._finished(self._without_noise(micro_step, views, draws), posterior, eps)

    def _stored_batch(self, micro_step: int, views: Views) -> StoredBatch:
        positions = self.plan.positions(micro_step).tolist()
        draws = [SampleUniforms.of_position(self.plan.seed, position) for position in positions]
        return self._without_noise(micro_step, views, draws)

    def _without_noise(self, micro_step: int, views: Views, draws: Sequence[SampleUniforms]) -> StoredBatch:
        stored, labels = views(np.array([self.options.flip and draw.flip < 0.5 for draw in draws]))
        return StoredBatch(
            stored=torch.from_numpy(stored),
            labels=self._with_drops(labels, np.array([draw.drop for draw in draws])),
            # A number just below 1 would be rounded to 1, where the quantile of an unbounded density is infinite.
            u=torch.tensor([draw.u for draw in draws], dtype=torch.float32).clamp(max=1 - 2**-24),
            row=torch.from_numpy(self.plan.rows(micro_step)),
            position=torch.from_numpy(self.plan.positions(micro_step)),
        )

    def _with_noise(self, batch: Batch | StoredBatch) -> Batch:
        """A batch that was read, with its noise, which is drawn on the batch's device if it was not drawn yet."""
        if isinstance(batch, Batch):
            return batch
        return self._finished(batch, *device_noise(self.plan.seed, batch.position, self.shards.latent_shape))

    def _finished(self, batch: StoredBatch, posterior: Tensor, eps: Tensor) -> Batch:
        latents = draw_latents(batch.stored, posterior, self.shards.manifest)
        return Batch(self.normalization.normalize(latents), batch.labels, eps, batch.u, batch.row)

    def _with_drops(self, labels: np.ndarray, drop: np.ndarray) -> Tensor | None:
        if not self.shards.num_classes:
            return None
        unconditional = (drop < self.options.label_drop) | (labels == NO_LABEL)
        return torch.from_numpy(np.where(unconditional, self.shards.num_classes, labels))


@dataclass(frozen=True)
class _MicroSteps(IterableDataset[Batch | StoredBatch | UserError]):
    """A dataset of the batches of `micro_steps`: worker i of n makes every n-th one, beginning with the i-th.

    A `UserError` is yielded as the last value, for if a worker raised it, the user would see the worker's traceback.
    """

    batches: LatentBatches
    micro_steps: range

    def __iter__(self) -> Iterator[Batch | StoredBatch | UserError]:
        worker = get_worker_info()
        own = self.micro_steps if worker is None else self.micro_steps[worker.id :: worker.num_workers]
        try:
            yield from self.batches.read(own)
        except UserError as error:
            yield error


def check_flip(options: DataOptions, shards: TrainingSet) -> None:
    """Raise `UserError` where mirrored views are asked for and the set holds none."""
    if options.flip and not shards.manifest.flips:
        raise UserError(
            f"data.flip is on, and {options.shards} holds no mirrored views; encode it again with --flip, or --set "
            f"data.flip=false"
        )
