"""The streaming reader: shards read in sequence, in a folder or at an address, without local copies.

Of webdataset only the tar iterator and the grouping are used: its openers and decoders, which can run commands and
unpickle, never see an address or a member.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any

import numpy as np
from pydantic import PositiveInt
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_iterator

from latentdebias.batches.lanes import Lane, Slice, Window
from latentdebias.batches.options import READERS, DataOptions, Reader
from latentdebias.batches.order import FullShuffle
from latentdebias.batches.plan import BatchPlan
from latentdebias.batches.reader import TrainingSet, Views
from latentdebias.errors import UserError, command
from latentdebias.images.find import NO_LABEL
from latentdebias.remote import check_url, member_url, open_seekable, read_whole
from latentdebias.shards.format import NPY_HEADER, Manifest, ShardRecord, stored_array
from latentdebias.shards.index_file import checked_index
from latentdebias.shards.remote_manifest import read_remote_manifest

LATENT, FLIP, LABEL, ABOUT = "latent.npy", "flip.npy", "cls", "json"
EXTENSIONS = (LATENT, FLIP, LABEL, ABOUT)
Sample = dict[str, Any]
"""A stored sample as webdataset groups it: extension -> bytes, and `__key__` and `__url__`."""


@READERS.register("streaming")
@dataclass(frozen=True)
class StreamingReader(Reader):
    """Reads each rank's part of an epoch in sequence, `shards_at_once` shards side by side, mixed in a buffer.

    The order depends on the seed, the number of ranks and these two options, see `lanes.Lane`. Nothing is copied to
    a disk; `shuffle_buffer` samples are held in the memory of every rank.
    """

    shuffle_buffer: PositiveInt = 4096
    shards_at_once: PositiveInt = 16

    def open(self, data: DataOptions) -> "StreamedSet":
        """The set of `data.shards`; `UserError` for an unreadable manifest, or any `data.order` but the default."""
        if data.order != FullShuffle():
            raise UserError(
                f"data.order {data.order!r} is an order of data.reader indexed; the streaming reader has its own. "
                f"Leave it at its default: --set data.order=shuffle"
            )
        return StreamedSet(data.shards, self)


class StreamedSet(TrainingSet):
    """The set in the folder at `url`, a path or an address that begins with file://, http(s):// or s3://."""

    def __init__(self, url: str, options: StreamingReader) -> None:
        check_url(url)
        self.url, self.options = url, options
        self.manifest: Manifest = read_remote_manifest(url)
        if not self.manifest.count:
            raise UserError(f"{url} holds no samples; encode images into it, or name another set in data.shards.")

    def workers_used(self, workers: int) -> int:
        """One process at most, for a second one would have to read all that the first one reads."""
        return min(workers, 1)

    def resume_settings(self, world_size: int) -> dict[str, Any]:
        """The reader with its options and the number of ranks, which decide the order."""
        return {"data.reader": READERS.spec_of(self.options), "data.reader.ranks": world_size}

    def samples(self, plan: BatchPlan, micro_steps: range) -> Iterator[Views]:
        """For each of the consecutive `micro_steps`, a function that gives the next samples of the rank's lane.

        Its argument and results have the shapes that `TrainingSet.samples` states.

        Samples before the first micro-step are skipped. Reading begins with the window that holds the first sample,
        and of what comes before that window only the indexes of some shards are read.
        """
        assert micro_steps.step == 1, "a stream has no gaps"
        sizes = tuple(shard.count for shard in self.manifest.shards)
        lane = Lane(
            sizes, self.options.shuffle_buffer, self.options.shards_at_once, plan.seed, plan.rank, plan.world_size
        )
        first = micro_steps.start * plan.micro_batch_size
        trained = lane.trained(first, self._read(lane, lane.windows(first)))
        for _ in micro_steps:
            yield partial(self._views, list(islice(trained, plan.micro_batch_size)))

    def _read(self, lane: Lane, windows: Iterator[Window]) -> Iterator[Sample]:
        """The samples of the windows, in the order in which they are read."""
        for _, piece in groupby(windows, key=lambda window: window.epoch):
            tracks: list[Iterator[Sample]] = []
            for window in piece:
                tracks = tracks or [self._track(lane, window.epoch, part.start) for part in window.parts]
                for track, part in zip(tracks, window.parts, strict=True):
                    yield from islice(track, len(part))

    def _track(self, lane: Lane, epoch: int, place: int) -> Iterator[Sample]:
        """The samples from `place` in an epoch's row to its end; each shard is opened when it is reached."""
        for piece in lane.slices(epoch, place):
            yield from self._slice(piece)

    def _slice(self, piece: Slice) -> Iterator[Sample]:
        shard = self.manifest.shards[piece.shard]
        url = member_url(self.url, f"{shard.name}.tar")
        with open_seekable(url) as file:
            if piece.start:
                file.seek(self._offset(shard, piece.start))
            samples = group_by_keys(_checked(tar_file_iterator(file), url))
            for number in range(piece.start, piece.stop):
                sample = next(samples, None)
                # A shard with more samples than the manifest states is not the shard that the manifest means.
                if sample is None or (number == shard.count - 1 and next(samples, None) is not None):
                    raise UserError(
                        f"{url} does not hold the {shard.count} samples that its manifest states: it was cut, zeroed "
                        f"or replaced. Check the set where it was made with: {command('encode')} verify DIRECTORY"
                    )
                yield sample

    def _offset(self, shard: ShardRecord, number: int) -> int:
        """The byte of the shard's tar at which its sample `number` begins, from the shard's index."""
        url = member_url(self.url, f"{shard.name}.index.npy")
        try:
            index = checked_index(read_whole(url), shard, self.manifest)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{url} cannot be read as an index ({error}); copy the set there again.") from None
        return int(index["latent"][number]) - NPY_HEADER - tarfile.BLOCKSIZE

    def _views(self, samples: Sequence[Sample], flipped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The stored values and the labels of `samples`; see `reader.Views`."""
        values = [
            self._array(sample, FLIP if mirrored else LATENT)
            for sample, mirrored in zip(samples, flipped.tolist(), strict=True)
        ]
        return np.stack(values), np.array([_label(sample) for sample in samples], np.int64)

    def _array(self, sample: Sample, view: str) -> np.ndarray:
        where = f"sample {sample['__key__']} of {sample['__url__']}"
        if view not in sample:
            raise UserError(f"{where} has no {view}. Check the set with: {command('encode')} verify DIRECTORY")
        try:
            return stored_array(sample[view], self.manifest)
        except ValueError as error:
            raise UserError(f"{view} of {where} is damaged: {error}. Make its shard again.") from None


def _members(files: Iterator[dict[str, Any]], url: str) -> Iterator[dict[str, Any]]:
    try:
        yield from files
    except tarfile.TarError as error:
        raise UserError(
            f"{url} is damaged ({error}). Check the set where it was made with: {command('encode')} verify DIRECTORY"
        ) from None


def _checked(files: Iterator[dict[str, Any]], url: str) -> Iterator[dict[str, Any]]:
    """The files of a shard's tar, for webdataset to group; `UserError` for a broken tar, or a name not of a shard."""
    for file in _members(files, url):
        name = file["fname"]
        key, extension = base_plus_ext(name)
        if extension not in EXTENSIONS or "/" in key:
            raise UserError(
                f"{url} is refused: its member {name!r} is none that a latent shard holds (KEY with one of "
                f"{', '.join(EXTENSIONS)}). Nothing of it was decoded; use only sets from sources that you trust."
            )
        yield {**file, "__url__": url}


def _label(sample: Sample) -> int:
    text = sample.get(LABEL, str(NO_LABEL).encode())
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"The label of sample {sample['__key__']} of {sample['__url__']} is {text[:40]!r}, which is no class index."
        ) from None
