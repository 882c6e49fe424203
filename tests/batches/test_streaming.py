"""The streaming reader: what it reads of shards in a folder and over HTTP."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from serving import served_by_ranges
from shard_fixtures import write_images
from streams import SMALL, everything, numbers_trained, read_all, read_rows

from latentdebias.autoencoders import load_autoencoder
from latentdebias.batches.lanes import Lane
from latentdebias.batches.loader import LatentBatches
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.batches.options import DataOptions
from latentdebias.batches.order import BlockShuffle
from latentdebias.batches.plan import BatchPlan, plan_batches
from latentdebias.batches.streaming import StreamedSet, StreamingReader
from latentdebias.errors import UserError
from latentdebias.images.find import find_images
from latentdebias.shards.jobs.encode import EncodeJob, encode_images

CPU = torch.device("cpu")


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (2, 3)])
def test_it_reads_the_samples_of_the_lane_from_any_step(small_set, rank, world_size, flipped):
    """21 samples in shards of 5, 5, 5, 5 and 1, in micro-batches of 2, two a step."""
    plan = BatchPlan(3, 4 * world_size, 2, rank, world_size)
    samples = everything(small_set, flipped)
    lane = Lane((5, 5, 5, 5, 1), SMALL.shuffle_buffer, SMALL.shards_at_once, 3, rank, world_size)
    expected = [samples[number] for number in numbers_trained(lane, 60)]
    assert read_rows(small_set, plan, range(30), flipped) == expected
    for first in (1, 4, 10, 17, 29):
        assert read_rows(small_set, plan, range(first, 30), flipped) == expected[2 * first :]


@pytest.mark.parametrize("scheme", ["path", "file", "http"])
def test_a_set_streams_from_a_folder_and_over_http(small_set, scheme):
    with served_by_ranges(small_set) as server:
        url = {"path": str(small_set), "file": f"file://{small_set}", "http": server.url}[scheme]
        assert Counter(read_all(url)) == Counter(everything(small_set))


def test_a_resumed_rank_fetches_the_shards_that_it_trains_next_and_no_others(small_set):
    with served_by_ranges(small_set) as server:
        shards = StreamedSet(server.url, StreamingReader(shuffle_buffer=2, shards_at_once=1))
        assert server.requests == ["/manifest.json"]
        list(shards.samples(BatchPlan(0, 3, 1, 2, 3), range(38, 40)))
        fetched = {path for path in server.requests if path.endswith(".tar")}
        assert 1 <= len(fetched) <= 2


def batches(url, plan, **options):
    data = DataOptions(shards=str(url), reader=SMALL, **options)
    shards = data.reader.open(data)
    return LatentBatches(shards, plan, data, LatentNormalization.of_manifest(shards.manifest, "channel"))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_do_not_depend_on_workers_or_on_where_a_run_resumed(small_set, workers):
    with served_by_ranges(small_set) as server:
        plan = plan_batches(0, 8, 2, 1, 2)
        whole = list(batches(server.url, plan, flip=True).of(range(12)))
        resumed = list(batches(server.url, plan, flip=True, workers=workers).loader(3, 6, CPU))
        assert len(resumed) == 6
        for left, right in zip(whole[6:], resumed, strict=True):
            for name in ("latents", "labels", "eps", "u", "row"):
                assert torch.equal(getattr(left, name), getattr(right, name))


def test_draws_are_those_of_the_indexed_reader(small_set):
    """A reader decides which sample is at a position, and nothing else."""
    plan = plan_batches(0, 7, None, 0, 1)
    data = DataOptions(shards=str(small_set), flip=True)
    here, there = (
        list(
            LatentBatches(each.reader.open(each), plan, each, LatentNormalization((0.0,) * 4, (1.0,) * 4)).of(range(3))
        )
        for each in (data, replace(data, reader=StreamingReader()))
    )
    for left, right in zip(here, there, strict=True):
        assert torch.equal(left.eps, right.eps)
        assert torch.equal(left.u, right.u)
    assert not torch.equal(here[0].latents, there[0].latents)


def test_a_checkpoint_is_told_the_reader_and_the_ranks(small_set):
    settings = StreamedSet(str(small_set), SMALL).resume_settings(4)
    assert settings["data.reader"] == {"name": "streaming", "shuffle_buffer": 6, "shards_at_once": 3}
    assert 4 in settings.values()


def test_the_order_of_the_other_reader_is_refused(small_set):
    with pytest.raises(UserError, match=r"data\.order=shuffle"):
        SMALL.open(DataOptions(shards=str(small_set), reader=SMALL, order=BlockShuffle()))


def test_mirrored_views_that_a_set_lacks_are_refused(encode):
    with pytest.raises(UserError, match="no mirrored views"):
        batches(encode(flips=False), plan_batches(0, 1, None, 0, 1), flip=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_fails_is_named(small_set, workers):
    with served_by_ranges(small_set) as server:
        loader = batches(server.url, plan_batches(0, 7, None, 0, 1), workers=workers).loader(0, 12, CPU)
        next(loader)
        server.failing = True
        with pytest.raises(UserError, match=r"127\.0\.0\.1.*cannot be read"):
            list(loader)


def test_pixels_without_labels(tmp_path):
    """A set of uint8 pixels of images that are in no class folder."""
    write_images(tmp_path / "images", 5)
    found = find_images(str(tmp_path / "images"))
    encode_images(
        found,
        load_autoencoder("identity"),
        tmp_path / "set",
        EncodeJob(resolution=8, flips=False, samples_per_shard=2, workers=0),
    )
    expected = everything(tmp_path / "set")
    assert Counter(read_all(tmp_path / "set", 5)) == Counter(expected)
    assert {label for _, label in expected} == {-1}
    (batch,) = batches(tmp_path / "set", plan_batches(0, 5, None, 0, 1)).of(range(1))
    assert batch.labels is None
    assert batch.latents.shape == (5, 3, 8, 8)
