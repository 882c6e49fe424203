"""The encoding job: images -> latent shards, split over processes, resumable, the same bytes whoever does the work."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from latentdebias.data.images import ImageSet, SourceImage
from latentdebias.data.preprocess import PREPROCESSING, centre_crop, decode_image
from latentdebias.data.shards import (
    LATENT_DTYPE,
    MANIFEST,
    PLAN,
    Manifest,
    Plan,
    Rejection,
    ShardRecord,
    ShardSummary,
    complete_summary,
    read_plan,
    shard_name,
    write_json,
)
from latentdebias.data.statistics import LatentSums
from latentdebias.data.writer import ShardWriter
from latentdebias.errors import UserError
from latentdebias.files import write_errors


class LatentEncoder(Protocol):
    """What the job asks of an autoencoder."""

    @property
    def identity(self) -> Any:
        """A dataclass of plain values for the manifest; among them `channels` and `factor`, pixels per latent."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def encode(self, images: Tensor) -> Tensor:
        """Moments `(B, 2C, h, w)`, mean then log-variance, of images `(B, 3, H, W)` in [-1, 1]."""


@dataclass(frozen=True)
class DecodedBatch:
    """Cropped images of one shard: uint8 pixels `(B, H, W, 3)`, their input numbers, and the inputs that failed.

    numpy, not tensors: worker processes then need no shared memory, of which containers give little.
    """

    shard: int
    inputs: list[int]
    pixels: np.ndarray
    original_sizes: list[tuple[int, int]]
    rejected: list[Rejection]

    @property
    def num_inputs(self) -> int:
        return len(self.inputs) + len(self.rejected)


class _DecodedBatches(Dataset[DecodedBatch]):
    """Element i is the decoded `batches[i]`, made wherever the DataLoader asks for it."""

    def __init__(self, images: list[SourceImage], batches: list[tuple[int, range]], resolution: int) -> None:
        self.images = images
        self.batches = batches
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> DecodedBatch:
        shard, inputs = self.batches[number]
        pixels = np.zeros((len(inputs), self.resolution, self.resolution, 3), np.uint8)
        kept: list[int] = []
        sizes: list[tuple[int, int]] = []
        rejected: list[Rejection] = []
        for index in inputs:
            source = self.images[index]
            try:
                image = _decode(source)
                pixels[len(kept)] = centre_crop(image, self.resolution)
            # Pillow's readers raise nearly any exception on bad bytes, and one bad file must not end the job.
            except Exception as error:
                rejected.append(Rejection(source.name, f"{type(error).__name__}: {error}"))
            else:
                kept.append(index)
                sizes.append(image.size)
        return DecodedBatch(shard, kept, pixels[: len(kept)], sizes, rejected)


def _decode(source: SourceImage) -> Image.Image:
    if source.fault:
        raise ValueError(source.fault)
    return decode_image(source.read())


def encode_images(
    images: ImageSet,
    encoder: LatentEncoder,
    out: Path,
    *,
    resolution: int,
    flips: bool = False,
    samples_per_shard: int = 8192,
    batch_size: int = 32,
    workers: int | None = None,
    max_reject_share: float = 0.01,
    rank: int = 0,
    world_size: int = 1,
) -> Manifest | None:
    """Encode this rank's shards, those numbered `rank` modulo `world_size`, into `out`; complete ones are skipped.

    Whoever completes the last shard writes the manifest and returns it; the others return None. `UserError` where
    `out` was begun with other settings, a latent is not finite, too many inputs are rejected, or a write fails.
    """
    assert 0 <= rank < world_size
    plan = _plan(images, encoder, resolution, flips, samples_per_shard)
    _begin(out, plan)
    own = range(rank, plan.num_shards, world_size)
    done = {shard: summary for shard in own if (summary := complete_summary(out, shard_name(shard)))}
    pending = [shard for shard in own if shard not in done]

    num_own = plan.count_inputs(own)
    tally = _RejectTally(max_reject_share * num_own, num_own)
    tally.add([rejection for summary in done.values() for rejection in summary.rejected])
    loader = _loader(images.images, plan, pending, batch_size, workers)
    resumed = plan.count_inputs(done)
    with tqdm(desc="encode", unit="img", total=num_own, initial=resumed, disable=rank != 0) as bar:
        for shard, batches in itertools.groupby(loader, key=lambda batch: batch.shard):
            with ShardWriter(out, plan, shard) as writer:
                for batch in batches:
                    tally.add(batch.rejected)
                    writer.rejected.extend(batch.rejected)
                    _encode_batch(batch, images.images, encoder, batch_size, plan, writer)
                    bar.update(batch.num_inputs)
                writer.commit()
    return finalize(out, plan)


def _plan(images: ImageSet, encoder: LatentEncoder, resolution: int, flips: bool, samples_per_shard: int) -> Plan:
    channels, factor = encoder.identity.channels, encoder.identity.factor
    if resolution % factor:
        below = resolution // factor * factor
        raise UserError(
            f"--resolution {resolution} is no multiple of the {factor} pixels that one latent of "
            f"{encoder.identity.id!r} covers. Nearest legal: {below or factor} or {below + factor}."
        )
    return Plan(
        autoencoder=dataclasses.asdict(encoder.identity),
        precision=str(encoder.dtype).removeprefix("torch."),
        resolution=resolution,
        preprocessing=PREPROCESSING,
        latent_shape=(channels, resolution // factor, resolution // factor),
        flips=flips,
        samples_per_shard=samples_per_shard,
        num_inputs=len(images.images),
        inputs_sha256=images.fingerprint(),
        num_classes=images.num_classes,
        class_names=images.class_names,
    )


def _begin(out: Path, plan: Plan) -> None:
    """Record the plan in an empty folder; in one that was begun before, insist on the same plan."""
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if not (out / PLAN).exists():
        write_json(out / PLAN, plan)
        return
    old, new = dataclasses.asdict(read_plan(out)), dataclasses.asdict(plan)
    if differing := [name for name in new if old[name] != new[name]]:
        changes = "; ".join(f"{name} was {_short(old[name])} and is now {_short(new[name])}" for name in differing)
        raise UserError(
            f"{out} was begun with other settings, and one folder never mixes two: {changes}. "
            f"Pass another --out, or the old settings to go on, or delete the folder: rm -r {out}"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


@dataclass
class _RejectTally:
    """Counts rejected inputs and fails as soon as they are more than `limit` of `total`."""

    limit: float
    total: int
    rejected: list[Rejection] = dataclasses.field(default_factory=list)

    def add(self, rejected: list[Rejection]) -> None:
        self.rejected += rejected
        if len(self.rejected) > self.limit:
            first = "; ".join(f"{rejection.name} ({rejection.reason})" for rejection in self.rejected[:5])
            raise UserError(
                f"{len(self.rejected)} inputs rejected so far, where --max-rejects allows {self.limit:.4g} of "
                f"{self.total}: {first}. Mend or remove them, or allow more with --max-rejects SHARE."
            )


def _loader(
    images: list[SourceImage], plan: Plan, pending: list[int], batch_size: int, workers: int | None
) -> DataLoader[DecodedBatch]:
    """Batches in the order of `pending`, none across two shards, decoded in worker processes."""
    batches = [
        (shard, inputs[start : start + batch_size])
        for shard in pending
        for inputs in [plan.inputs_of(shard)]
        for start in range(0, len(inputs), batch_size)
    ]
    workers = min(4, os.cpu_count() or 1) if workers is None else workers
    dataset = _DecodedBatches(images, batches, plan.resolution)
    return DataLoader(dataset, batch_size=None, num_workers=min(workers, len(batches)))


def _encode_batch(
    batch: DecodedBatch,
    images: list[SourceImage],
    encoder: LatentEncoder,
    batch_size: int,
    plan: Plan,
    writer: ShardWriter,
) -> None:
    views = _views(batch, encoder, batch_size, plan)
    for row, index in enumerate(batch.inputs):
        source = images[index]
        for moments in views:
            if not np.isfinite(moments[row]).all():
                raise UserError(
                    f"The latent of {source.name} is not finite in {plan.dtype}, so nothing of shard {writer.name} "
                    f"was published. Encode with --dtype fp32, check the autoencoder, or remove that image."
                )
        flipped = views[1][row] if plan.flips else None
        writer.add(index, views[0][row], flipped, source.label, source.name, batch.original_sizes[row])


def _views(batch: DecodedBatch, encoder: LatentEncoder, batch_size: int, plan: Plan) -> list[np.ndarray]:
    """Moments `(B, 2C, h, w)` of the batch and, where the plan has flips, of its mirror images."""
    if not batch.inputs:
        return []
    # The forward always sees a full batch: kernels may differ, in the last bit, from one batch size to another.
    padded = np.zeros((batch_size, *batch.pixels.shape[1:]), np.uint8)
    padded[: len(batch.inputs)] = batch.pixels
    pixels = torch.from_numpy(padded).to(encoder.device).permute(0, 3, 1, 2)
    images = pixels.float() / 127.5 - 1
    return [_moments(encoder, view, plan) for view in ([images, images.flip(3)] if plan.flips else [images])]


def _moments(encoder: LatentEncoder, images: Tensor, plan: Plan) -> np.ndarray:
    moments = encoder.encode(images).cpu().numpy()
    assert moments.shape[1:] == plan.moments_shape, f"{moments.shape} is not the planned {plan.moments_shape}"
    with np.errstate(over="ignore"):
        return moments.astype(LATENT_DTYPE)


def finalize(out: Path, plan: Plan) -> Manifest | None:
    """Write and return the manifest if every shard of the plan is complete, else None."""
    summaries = list(_summaries(out, plan))
    if len(summaries) < plan.num_shards:
        return None
    sums = LatentSums.merge([summary.sums for summary in summaries], plan.latent_shape[0])
    rejected = [rejection for summary in summaries for rejection in summary.rejected]
    if not sums.values:
        raise UserError(f"All {plan.num_inputs} inputs were rejected, the first because of {rejected[0].reason}.")
    manifest = Manifest(
        **{field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)},
        count=sum(summary.count for summary in summaries),
        latent_mean=sums.mean(),
        latent_std=sums.std(),
        shards=[ShardRecord(s.name, s.count, s.size, s.sha256) for s in summaries],
        rejected=rejected,
    )
    write_json(out / MANIFEST, manifest)
    return manifest


def _summaries(out: Path, plan: Plan) -> Iterator[ShardSummary]:
    for shard in range(plan.num_shards):
        if summary := complete_summary(out, shard_name(shard)):
            yield summary
