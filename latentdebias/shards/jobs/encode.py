"""The encoding job: images -> latent shards, split over processes, resumable, with the same bytes for any split."""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latentdebias.autoencoders import Autoencoder
from latentdebias.errors import UserError
from latentdebias.files import write_errors
from latentdebias.images.find import ImageSet, SourceImage
from latentdebias.images.preprocess import PREPROCESSING
from latentdebias.precision import Precision, computing_in
from latentdebias.shards.format import (
    FORWARD_BATCH,
    PLAN,
    Manifest,
    Plan,
    Rejection,
    ShardSummary,
    complete_summary,
    read_plan,
    shard_name,
    write_json,
    write_manifest,
)
from latentdebias.shards.jobs.decoded_batches import DecodedBatch, decoded_batches
from latentdebias.shards.posterior import to_stored
from latentdebias.shards.writer import ShardWriter


@dataclass(frozen=True)
class EncodedBatch:
    """A decoded batch and the autoencoder's output for its images and, with flips, for their mirror images.

    On a GPU the output in `views` is there once the event `ready` has passed; on a CPU `ready` is None.
    """

    decoded: DecodedBatch
    views: list[Tensor]
    ready: torch.cuda.Event | None

    def arrays(self) -> list[np.ndarray]:
        """The outputs as float32 arrays `(B, *plan.stored_shape)`, after waiting for a GPU to finish them."""
        if self.ready is not None:
            self.ready.synchronize()
        return [view.numpy() for view in self.views]


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """The options of one encoding job; the first five decide the bytes of the set, and the others do not.

    `resolution` is the side of the centre crop in pixels, `precision` tf32 lets an fp32 autoencoder use TF32, and
    `flips` also encodes every mirror image. The autoencoder sees `forward_batch` images a call. A worker decodes
    `batch_size` images at a time, rounded up to a multiple of `forward_batch`; `workers` None means up to 4.
    `max_reject_share` is the share of a process's inputs that may be rejected.
    """

    resolution: int
    precision: Precision = "fp32"
    flips: bool = False
    samples_per_shard: int = 8192
    forward_batch: int = FORWARD_BATCH
    batch_size: int = 32
    workers: int | None = None
    max_reject_share: float = 0.01


def encode_images(
    images: ImageSet, autoencoder: Autoencoder, out: Path, job: EncodeJob, *, rank: int = 0, world_size: int = 1
) -> Manifest | None:
    """Encode this rank's shards, those numbered `rank` modulo `world_size`, into `out`; complete ones are skipped.

    The images of one call of the autoencoder are always the same, so that the bytes depend neither on
    `job.batch_size` nor on which process does what. The process that completes the last shard writes the manifest
    and returns it; the others return None. Raises `UserError` where `out` was begun with other settings, a latent is
    not finite, too many inputs are rejected, or a write fails.
    """
    assert 0 <= rank < world_size
    plan = _plan(images, autoencoder, job)
    _begin(out, plan)
    own = range(rank, plan.num_shards, world_size)
    done = {shard: summary for shard in own if (summary := complete_summary(out, shard_name(shard)))}
    pending = [shard for shard in own if shard not in done]

    num_own = plan.count_inputs(own)
    tally = _RejectTally(job.max_reject_share * num_own, num_own)
    tally.add([rejection for summary in done.values() for rejection in summary.rejected])
    loader = decoded_batches(images.images, plan, pending, job.batch_size, job.workers)
    resumed = plan.count_inputs(done)
    with tqdm(desc="encode", unit="img", total=num_own, initial=resumed, disable=rank != 0) as bar:
        encoded = _encoded(loader, autoencoder, plan, bar)
        for shard, batches in itertools.groupby(encoded, key=lambda batch: batch.decoded.shard):
            with ShardWriter(out, plan, shard) as writer:
                for batch in batches:
                    tally.add(batch.decoded.rejected)
                    writer.rejected.extend(batch.decoded.rejected)
                    _write_batch(batch, images.images, plan, writer)
                    bar.update(len(batch.decoded.inputs))
                writer.commit()
    return finalize(out, plan)


def _encoded(
    loader: Iterable[DecodedBatch], autoencoder: Autoencoder, plan: Plan, bar: "tqdm[Any]"
) -> Iterator[EncodedBatch]:
    """The batches of `loader` with the autoencoder's output; `bar` shows the share of time spent waiting for images.

    A batch is yielded after the next one was started, so that a GPU computes while the caller writes.
    """
    waited, start = 0.0, time.perf_counter()
    previous: EncodedBatch | None = None
    batches = iter(loader)
    while True:
        asked = time.perf_counter()
        decoded = next(batches, None)
        waited += time.perf_counter() - asked
        if decoded is None:
            break
        current = _start_encoding(decoded, autoencoder, plan)
        if previous is not None:
            yield previous
        previous = current
        bar.set_postfix_str(f"{waited / (time.perf_counter() - start):.0%} of the time waiting for images")
    if previous is not None:
        yield previous


def _plan(images: ImageSet, autoencoder: Autoencoder, job: EncodeJob) -> Plan:
    resolution, channels, factor = job.resolution, autoencoder.identity.channels, autoencoder.identity.factor
    if resolution % factor:
        below = resolution // factor * factor
        raise UserError(
            f"--resolution {resolution} is no multiple of the {factor} pixels that one latent of "
            f"{autoencoder.identity.id!r} covers. Nearest legal: {below or factor} or {below + factor}."
        )
    return Plan(
        autoencoder=dataclasses.asdict(autoencoder.identity),
        precision="tf32" if job.precision == "tf32" else str(autoencoder.dtype).removeprefix("torch."),
        forward_batch=job.forward_batch,
        resolution=resolution,
        preprocessing=PREPROCESSING,
        latent_shape=(channels, resolution // factor, resolution // factor),
        posterior=autoencoder.posterior,
        dtype=autoencoder.stored_dtype,
        flips=job.flips,
        samples_per_shard=job.samples_per_shard,
        num_inputs=len(images.images),
        inputs_sha256=images.fingerprint(),
        num_classes=images.num_classes,
        class_names=images.class_names,
    )


def _begin(out: Path, plan: Plan) -> None:
    """Write `plan` into the folder `out`; raises `UserError` where `out` was begun with another plan."""
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if not (out / PLAN).exists():
        write_json(out / PLAN, plan)
    # The plan is read back even if it was just written: another rank may have written its own at the same moment.
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


def _write_batch(batch: EncodedBatch, images: list[SourceImage], plan: Plan, writer: ShardWriter) -> None:
    views = [to_stored(view, plan) for view in batch.arrays()]
    for slot, (index, size) in enumerate(zip(batch.decoded.inputs, batch.decoded.sizes, strict=True)):
        if size is None:
            continue
        source = images[index]
        for moments in views:
            if not np.isfinite(moments[slot]).all():
                raise UserError(
                    f"The latent of {source.name} is not finite in {plan.dtype}, so nothing of shard {writer.name} "
                    f"was published. Encode with --dtype fp32, check the autoencoder, or remove that image."
                )
        flipped = views[1][slot] if plan.flips else None
        writer.add(index, views[0][slot], flipped, source.label, source.name, size)


def _start_encoding(batch: DecodedBatch, autoencoder: Autoencoder, plan: Plan) -> EncodedBatch:
    """Start encoding the images and, with flips, their mirror images; on a GPU this returns before the work is done."""
    on_gpu = autoencoder.device.type == "cuda"
    # From pageable memory the copy would wait until the batch before this one is encoded.
    pixels = torch.from_numpy(batch.pixels).pin_memory() if on_gpu else torch.from_numpy(batch.pixels)
    images = pixels.to(autoencoder.device, non_blocking=on_gpu).permute(0, 3, 1, 2).float() / 127.5 - 1
    with computing_in("tf32" if plan.precision == "tf32" else "fp32"):
        views = [_forward(view, autoencoder, plan) for view in ([images, images.flip(3)] if plan.flips else [images])]
    if not on_gpu:
        return EncodedBatch(batch, views, None)
    on_host = [torch.empty(view.shape, dtype=view.dtype, pin_memory=True) for view in views]
    for host, view in zip(on_host, views, strict=True):
        host.copy_(view, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(autoencoder.device))
    return EncodedBatch(batch, on_host, ready)


def _forward(images: Tensor, autoencoder: Autoencoder, plan: Plan) -> Tensor:
    """The autoencoder's output `(B, *plan.stored_shape)` for images `(B, 3, H, W)` in [-1, 1].

    Each call takes `plan.forward_batch` images, and the last one is filled up with zeros.
    """
    parts = []
    for part in images.split(plan.forward_batch):
        padding = plan.forward_batch - len(part)
        filled = torch.cat([part, part.new_zeros(padding, *part.shape[1:])]) if padding else part
        parts.append(autoencoder.encode(filled)[: len(part)])
    return torch.cat(parts)


def finalize(out: Path, plan: Plan) -> Manifest | None:
    """Write and return the manifest if every shard is complete, else None; `UserError` if all inputs were rejected."""
    summaries: list[ShardSummary] = []
    for shard in range(plan.num_shards):
        summary = complete_summary(out, shard_name(shard))
        if summary is None:
            return None
        summaries.append(summary)
    if not any(summary.count for summary in summaries):
        reason = next(rejection.reason for summary in summaries for rejection in summary.rejected)
        raise UserError(f"All {plan.num_inputs} inputs were rejected, the first because of {reason}.")
    return write_manifest(out, plan, summaries)
