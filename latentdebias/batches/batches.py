"""Stateless training batches: every number in a batch is a function of (seed, position) alone.

Sample position = step * batch_size + row counts the samples of a run from 0. Position p reads the sample that
`data.order` puts there, and draws its flip, label drop, posterior sample, timestep and noise from a counter-based
generator keyed by (seed, p). So workers, ranks, resumes and micro-batches cannot change the training.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latentdebias.batches.normalization import LatentNormalization, NormalizationKind
from latentdebias.errors import UserError
from latentdebias.images.find import NO_LABEL
from latentdebias.registry import option
from latentdebias.shards.order import ORDERS, SampleOrder
from latentdebias.shards.posterior import draw_latents
from latentdebias.shards.reader import LatentShards
from latentdebias.workers import ErrorsAsValues, outlast_signals, raised


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The `data` section of a run config; what is null there is read from the shards' manifest."""

    shards: str = option(
        "shards/imagenet256", "a folder written by the encoder, or its address: https://..., s3://...", on_resume="free"
    )
    cache: str | None = option(
        None, "a folder for local copies of remote shards, at most cache_gb of them", on_resume="free"
    )
    cache_gb: PositiveFloat = option(100.0, "", on_resume="free")
    vae: str | None = option(
        None,
        "what the shards must be, from here to num_classes; null: whatever they are. Stated here, the model can be "
        "checked without them",
        on_resume="free",
    )
    resolution: PositiveInt | None = option(None, "", on_resume="free")
    latent_shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = option(None, "[C, h, w]", on_resume="free")
    num_classes: NonNegativeInt | None = option(None, "0: unconditional", on_resume="free")
    normalization: NormalizationKind = option(
        "channel", "channel: the set's own mean and std | scaling: the autoencoder's scaling factor"
    )
    order: Annotated[SampleOrder, ORDERS.part] = option(
        ORDERS.build("shuffle"), "blocks is for network storage:  {name: blocks, block: 4096, blocks_in_window: 16}"
    )
    flip: bool = option(False, "mirror half of the samples; needs shards encoded with --flip")
    label_drop: Annotated[float, Field(ge=0, le=1)] = option(
        0.1, "share of labels replaced by the null class, for classifier-free guidance"
    )
    workers: NonNegativeInt = option(2, "processes that read ahead; 0 reads in the training process", on_resume="free")


@dataclass(frozen=True)
class Batch:
    """One rank's micro-batch: latents and eps `(B, C, h, w)`, labels int64, uniforms u and global rows `(B,)`."""

    latents: Tensor
    labels: Tensor | None
    eps: Tensor
    u: Tensor
    row: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`, copied asynchronously from pinned memory."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("latents", "eps", "u", "row")}
        return replace(self, labels=labels, **moved)

    def pin_memory(self) -> "Batch":
        labels = None if self.labels is None else self.labels.pin_memory()
        return Batch(
            self.latents.pin_memory(), labels, self.eps.pin_memory(), self.u.pin_memory(), self.row.pin_memory()
        )


@dataclass(frozen=True)
class BatchPlan:
    """How the global batch is dealt out: micro-step m is micro-batch m % accumulation of step m // accumulation."""

    seed: int
    batch_size: int
    micro_batch_size: int
    rank: int
    world_size: int

    @property
    def accumulation(self) -> int:
        """Micro-batches that one rank runs for one step."""
        return self.batch_size // (self.micro_batch_size * self.world_size)

    def rows(self, micro_step: int) -> np.ndarray:
        """The rows of the global batch that this rank trains in `micro_step`."""
        share = self.micro_batch_size * self.world_size
        start = (micro_step % self.accumulation) * share + self.rank * self.micro_batch_size
        return np.arange(start, start + self.micro_batch_size)

    def positions(self, micro_step: int) -> np.ndarray:
        """The sample positions of those rows."""
        return micro_step // self.accumulation * self.batch_size + self.rows(micro_step)


def plan_batches(seed: int, batch_size: int, micro_batch_size: int | None, rank: int, world_size: int) -> BatchPlan:
    """Deal the global batch to ranks; raises `UserError` where it cannot be dealt evenly."""
    unit = (micro_batch_size or 1) * world_size
    if batch_size % unit:
        raise UserError(
            f"training.batch_size {batch_size} (global) is not a multiple of {unit}, which is {world_size} ranks times "
            f"training.micro_batch_size {micro_batch_size or 1}; every rank must run the same number of micro-batches. "
            f"Set --set training.batch_size={-(-batch_size // unit) * unit}"
        )
    return BatchPlan(seed, batch_size, micro_batch_size or batch_size // world_size, rank, world_size)


class LatentBatches(Dataset[Batch]):
    """Micro-step -> `Batch`; holds no state that a resume would have to restore."""

    def __init__(
        self, shards: LatentShards, plan: BatchPlan, options: DataOptions, normalization: LatentNormalization
    ) -> None:
        check_flip(options, shards)
        self.shards, self.plan, self.options, self.normalization = shards, plan, options, normalization
        self.order = options.order

    def __getitem__(self, micro_step: int) -> Batch:
        positions = self.plan.positions(micro_step)
        draws = [SampleDraws.of(self.plan.seed, p, self.shards.latent_shape) for p in positions.tolist()]
        flipped = np.array([self.options.flip and draw.flip < 0.5 for draw in draws])
        stored, labels = self.shards.read(self._indices(positions), flipped)
        posterior_noise = torch.from_numpy(np.stack([draw.posterior for draw in draws]))
        latents = draw_latents(torch.from_numpy(stored), posterior_noise, self.shards.manifest)
        return Batch(
            latents=self.normalization.normalize(latents),
            labels=self._with_drops(labels, np.array([draw.drop for draw in draws])),
            eps=torch.from_numpy(np.stack([draw.eps for draw in draws])),
            u=torch.tensor([draw.u for draw in draws], dtype=torch.float32),
            row=torch.from_numpy(self.plan.rows(micro_step)),
        )

    def _indices(self, positions: np.ndarray) -> np.ndarray:
        return self.order.indices(self.plan.seed, positions, len(self.shards))

    def _with_drops(self, labels: np.ndarray, drop: np.ndarray) -> Tensor | None:
        if not self.shards.num_classes:
            return None
        unconditional = (drop < self.options.label_drop) | (labels == NO_LABEL)
        return torch.from_numpy(np.where(unconditional, self.shards.num_classes, labels))

    def loader(self, first_step: int, last_step: int, device: torch.device) -> Generator[Batch, None, None]:
        """The batches of steps [first_step, last_step), read ahead by `data.workers` processes."""
        micro_steps = range(first_step * self.plan.accumulation, last_step * self.plan.accumulation)
        loader = DataLoader(
            ErrorsAsValues(self),
            batch_size=None,
            sampler=micro_steps,
            num_workers=self.options.workers,
            pin_memory=device.type == "cuda",
            worker_init_fn=outlast_signals,
        )
        for batch in raised(loader):
            yield batch.to(device)


def check_flip(options: DataOptions, shards: LatentShards) -> None:
    """Raise `UserError` where mirrored views are asked for and the set holds none."""
    if options.flip and not shards.manifest.flips:
        raise UserError(
            f"data.flip is on, and {options.shards} holds no mirrored views; encode it again with --flip, or --set "
            f"data.flip=false"
        )


@dataclass(frozen=True)
class SampleDraws:
    """All that is random about one sample position."""

    u: float
    flip: float
    drop: float
    posterior: np.ndarray
    eps: np.ndarray

    @classmethod
    def of(cls, seed: int, position: int, shape: tuple[int, ...]) -> "SampleDraws":
        # Philox is counter-based: the position sits above the 2^128 numbers that one position may draw.
        rng = np.random.Generator(np.random.Philox(key=seed, counter=position << 128))
        u, flip, drop = rng.random(3)
        posterior, eps = rng.standard_normal((2, *shape), dtype=np.float32)
        return cls(u, flip, drop, posterior, eps)
