"""Sequential reading of shards at an address with webdataset: no index, no download first, no exact resume.

Of webdataset only the tar iterator, the grouping and the shuffle buffer are used: its openers and decoders, which can
run commands and unpickle, never see an address or a member.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from webdataset.filters import shuffle
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_iterator

from latentdebias.errors import UserError, command
from latentdebias.images.find import NO_LABEL
from latentdebias.remote import check_url, member_url, open_url
from latentdebias.shards.epochs import Share, StoredBatch
from latentdebias.shards.format import Manifest, ShardRecord, stored_array
from latentdebias.shards.order import permutation
from latentdebias.shards.remote_manifest import read_remote_manifest

LATENT, FLIP, LABEL, ABOUT = "latent.npy", "flip.npy", "cls", "json"
EXTENSIONS = (LATENT, FLIP, LABEL, ABOUT)
Members = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """Samples [start, stop) of one shard."""

    shard: ShardRecord
    start: int
    stop: int


class StreamedShards:
    """The set in the folder at `url` (a path, file://, http(s):// or s3://), streamed shard by shard.

    Each epoch permutes the shards and deals the row of their samples to the ranks in equal pieces, counted from the
    manifest, so a rank reads at most two shards in part; samples are mixed in a buffer of `shuffle_buffer`.
    """

    def __init__(self, url: str, shuffle_buffer: int = 4096) -> None:
        check_url(url)
        self.url, self.shuffle_buffer = url, shuffle_buffer
        self.manifest: Manifest = read_remote_manifest(url)
        self.count = self.manifest.count

    def epoch(self, share: Share, epoch: int) -> Iterator[StoredBatch]:
        """One rank's batches; `UserError` for a shard that is cut short or holds what no shard may hold."""
        if share.flip_probability and not self.manifest.flips:
            raise UserError(f"{self.url} holds no mirrored views; encode it again with --flip, or ask for no flips.")
        steps = share.steps(self.count)
        rng = random.Random(f"{share.seed} {epoch} {share.rank}")
        pieces = deal(self.manifest.shards, share, epoch)
        samples = shuffle(self.shuffle_buffer, initial=self.shuffle_buffer, rng=rng)(
            chain.from_iterable(map(self._read, pieces))
        )
        for _ in range(steps):
            members = list(islice(samples, share.batch_size))
            assert len(members) == share.batch_size, "every piece was read to its end"
            views = [FLIP if rng.random() < share.flip_probability else LATENT for _ in members]
            values = [self._array(sample, view) for sample, view in zip(members, views, strict=True)]
            yield np.stack(values), np.array([_label(sample) for sample in members], np.int64)

    def _read(self, piece: Piece) -> Iterator[Members]:
        url = member_url(self.url, f"{piece.shard.name}.tar")
        with open_url(url) as file:
            samples = group_by_keys(_checked(tar_file_iterator(file), url))
            # A shard that is read to its end must end there: one sample more would be another shard's place.
            stop = None if piece.stop == piece.shard.count else piece.stop
            seen = piece.start
            for sample in islice(samples, piece.start, stop):
                seen += 1
                if seen <= piece.stop:
                    yield sample
        if seen != piece.stop:
            raise UserError(
                f"{url} does not hold the {piece.shard.count} samples that its manifest states: it was cut, zeroed or "
                f"replaced. Check the set where it was made with: {command('encode')} verify DIRECTORY"
            )

    def _array(self, sample: Members, view: str) -> np.ndarray:
        where = f"sample {sample['__key__']} of {sample['__url__']}"
        if view not in sample:
            raise UserError(f"{where} has no {view}. Check the set with: {command('encode')} verify DIRECTORY")
        try:
            return stored_array(sample[view], self.manifest)
        except ValueError as error:
            raise UserError(f"{view} of {where} is damaged: {error}. Make its shard again.") from None


def deal(shards: list[ShardRecord], share: Share, epoch: int) -> Iterator[Piece]:
    """The pieces of the epoch's row of shards that belong to one rank; equally many samples for every rank."""
    total = sum(shard.count for shard in shards)
    samples = share.steps(total) * share.batch_size
    first, last = share.rank * samples, (share.rank + 1) * samples
    begin = 0
    for number in permutation(share.seed, epoch, len(shards)).tolist():
        shard = shards[number]
        start, stop = max(first - begin, 0), min(last - begin, shard.count)
        if start < stop:
            yield Piece(shard, start, stop)
        begin += shard.count


def _checked(files: Iterator[dict[str, Any]], url: str) -> Iterator[dict[str, Any]]:
    """The members as webdataset groups them; `UserError` for a name that no shard of ours holds."""
    for file in files:
        name = file["fname"]
        key, extension = base_plus_ext(name)
        if extension not in EXTENSIONS or "/" in key:
            raise UserError(
                f"{url} is refused: its member {name!r} is none that a latent shard holds (KEY with one of "
                f"{', '.join(EXTENSIONS)}). Nothing of it was decoded; use only sets from sources that you trust."
            )
        yield {**file, "__url__": url}


def _label(sample: Members) -> int:
    text = sample.get(LABEL, str(NO_LABEL).encode())
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"The label of sample {sample['__key__']} of {sample['__url__']} is {text[:40]!r}, which is no class index."
        ) from None
