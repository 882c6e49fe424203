"""The streaming reader: what it reads of shards in a folder and over HTTP, and what it refuses."""

import io
import os
import tarfile
from collections import Counter
from dataclasses import replace
from itertools import chain, islice

import numpy as np
import pytest
import torch
from serving import served_by_ranges

from latentdebias.batches import open_training_set
from latentdebias.batches.lanes import Lane
from latentdebias.batches.loader import LatentBatches
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.batches.options import DataOptions
from latentdebias.batches.plan import BatchPlan, plan_batches
from latentdebias.batches.streaming import StreamedSet, StreamingReader
from latentdebias.errors import UserError
from latentdebias.shards.reader import LatentShards

CPU = torch.device("cpu")
COUNT = 21
SMALL = StreamingReader(shuffle_buffer=6, shards_at_once=3)


def rows(values, labels):
    """What identifies each sample: its stored bytes and its label."""
    return [(value.tobytes(), label) for value, label in zip(values, labels.tolist(), strict=True)]


def everything(directory, flipped=False):
    """Every sample of a set, in the order of the set, read by its number."""
    return rows(*LatentShards(directory).read(np.arange(COUNT), np.full(COUNT, flipped)))


def read_rows(url, plan, micro_steps, flipped=False, options=SMALL):
    """What the streaming reader gives in `micro_steps`."""
    views = StreamedSet(str(url), options).samples(plan, micro_steps)
    return list(chain.from_iterable(rows(*view(np.full(plan.micro_batch_size, flipped))) for view in views))


def read_all(url):
    """The samples of the first epoch of the only rank, shard after shard."""
    return read_rows(url, plan_batches(0, 1, None, 0, 1), range(COUNT), options=replace(SMALL, shards_at_once=1))


def numbers(directory, plan):
    """The numbers in the set of the samples that the rank of `plan` trains, as its lane says, without end."""
    sizes = tuple(shard.count for shard in LatentShards(directory).manifest.shards)
    lane = Lane(sizes, SMALL.shuffle_buffer, SMALL.shards_at_once, plan.seed, plan.rank, plan.world_size)
    first_of = np.cumsum(sizes) - sizes

    def read():
        for window in lane.windows(0):
            for part in window.parts:
                slices = lane.slices(window.epoch, part.start)
                ranges = (range(first_of[s.shard] + s.start, first_of[s.shard] + s.stop) for s in slices)
                yield from islice(chain.from_iterable(ranges), len(part))

    return lane.trained(0, read())


def first_tar(directory):
    return directory / "shard-000000.tar"


def add_member(tar, name, data, **fields):
    """Write the shard again with one more member before the others."""
    with tarfile.open(tar) as old:
        members = [(info, old.extractfile(info).read()) for info in old]
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    with tarfile.open(tar, "w") as new:
        for member, content in [(info, data), *members]:
            new.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (2, 3)])
def test_it_reads_the_samples_of_the_lane_from_any_step(encode, rank, world_size, flipped):
    """21 samples in shards of 5, 5, 5, 5 and 1, in micro-batches of 2, two a step."""
    directory = encode()
    plan = BatchPlan(3, 4 * world_size, 2, rank, world_size)
    samples = everything(directory, flipped)
    expected = [samples[number] for number in islice(numbers(directory, plan), 60)]
    assert read_rows(directory, plan, range(30), flipped) == expected
    for first in range(0, 29, 3):
        assert read_rows(directory, plan, range(first, 30), flipped) == expected[2 * first :]


@pytest.mark.parametrize("scheme", ["path", "file", "http"])
def test_a_set_streams_from_a_folder_and_over_http(encode, scheme):
    directory = encode()
    with served_by_ranges(directory) as server:
        url = {"path": str(directory), "file": f"file://{directory}", "http": server.url}[scheme]
        assert Counter(read_all(url)) == Counter(everything(directory))


def test_a_resumed_rank_fetches_the_shards_that_it_trains_next_and_no_others(encode):
    directory = encode()
    with served_by_ranges(directory) as server:
        shards = StreamedSet(server.url, StreamingReader(shuffle_buffer=2, shards_at_once=1))
        assert server.requests == ["/manifest.json"]
        list(shards.samples(BatchPlan(0, 3, 1, 2, 3), range(38, 40)))
        fetched = {path for path in server.requests if path.endswith(".tar")}
        assert 1 <= len(fetched) <= 2


def batches(directory, plan, **options):
    data = DataOptions(shards=str(directory), reader=SMALL, **options)
    shards = open_training_set(data)
    return LatentBatches(shards, plan, data, LatentNormalization.of_manifest(shards.manifest, "channel"))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_do_not_depend_on_workers_or_on_where_a_run_resumed(encode, workers):
    with served_by_ranges(encode()) as server:
        plan = plan_batches(0, 8, 2, 1, 2)
        whole = list(batches(server.url, plan, flip=True).of(range(20)))
        resumed = list(batches(server.url, plan, flip=True, workers=workers).loader(3, 10, CPU))
        assert len(resumed) == 14
        for left, right in zip(whole[6:], resumed, strict=True):
            for name in ("latents", "labels", "eps", "u", "row"):
                assert torch.equal(getattr(left, name), getattr(right, name))


def test_draws_are_those_of_the_indexed_reader(encode):
    """A reader decides which sample is at a position, and nothing else."""
    directory = encode()
    plan = plan_batches(0, 7, None, 0, 1)
    data = DataOptions(shards=str(directory), flip=True)
    here, there = (
        list(
            LatentBatches(open_training_set(each), plan, each, LatentNormalization((0.0,) * 4, (1.0,) * 4)).of(range(3))
        )
        for each in (data, replace(data, reader="streaming"))
    )
    for left, right in zip(here, there, strict=True):
        assert torch.equal(left.eps, right.eps)
        assert torch.equal(left.u, right.u)
    assert not torch.equal(here[0].latents, there[0].latents)


def test_a_checkpoint_is_told_the_reader_and_the_ranks(encode):
    settings = StreamedSet(str(encode()), SMALL).resume_settings(4)
    assert settings["data.reader"] == {"name": "streaming", "shuffle_buffer": 6, "shards_at_once": 3}
    assert 4 in settings.values()


def test_the_order_of_the_other_reader_is_refused(encode):
    with pytest.raises(UserError, match=r"data\.order=shuffle"):
        open_training_set(DataOptions(shards=str(encode()), reader="streaming", order="blocks"))


def test_mirrored_views_that_a_set_lacks_are_refused(encode):
    with pytest.raises(UserError, match="no mirrored views"):
        batches(encode(flips=False), plan_batches(0, 1, None, 0, 1), flip=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_fails_is_named(encode, workers):
    with served_by_ranges(encode()) as server:
        loader = batches(server.url, plan_batches(0, 7, None, 0, 1), workers=workers).loader(0, 12, CPU)
        next(loader)
        server.failing = True
        with pytest.raises(UserError, match=r"127\.0\.0\.1.*cannot be read"):
            list(loader)


@pytest.mark.parametrize("content", [None, b"", b"x" * 400])
def test_an_index_that_is_needed_to_begin_within_a_shard_is_named(encode, content):
    directory = encode()
    for path in directory.glob("*.index.npy"):
        path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=r"index\.npy cannot be read"):
        read_rows(directory, plan_batches(0, 3, None, 1, 3), range(7))


@pytest.mark.parametrize(
    "url",
    ["pipe:touch {0}", "pipe://touch {0}", "PIPE:touch {0}", "gs://bucket/set", "ftp://host/set", "simplecache::file://{0}",
     "file://{0}::https://host", "github://a:b@/set", "file:{0}"],
)  # fmt: skip
def test_other_schemes_are_refused_by_name_before_anything_is_opened(tmp_path, monkeypatch, url):
    monkeypatch.setattr("fsspec.open", lambda *_: pytest.fail("something was opened"))
    url = url.format(tmp_path / "made")
    with pytest.raises(UserError) as caught:
        StreamedSet(url, SMALL)
    assert url in str(caught.value)
    assert "https" in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "name", ["a.pyd", "a.pkl", "a.pickle", "a.pth", "a.pt", "a.py", "a.latent.npy.gz", "../a.latent.npy", "/a.cls", "a"]
)
def test_a_member_that_no_shard_holds_is_refused_by_name_and_never_decoded(encode, name, monkeypatch):
    directory = encode()
    add_member(first_tar(directory), name, b"cos\nsystem\n(S'exit 3'\ntR.")
    monkeypatch.setattr("pickle.loads", lambda *_: pytest.fail("unpickled"))
    with pytest.raises(UserError, match="Nothing of it was decoded") as caught:
        read_all(directory)
    assert repr(name) in str(caught.value)
    assert "shard-000000.tar" in str(caught.value)


def test_a_pickled_array_is_not_loaded(encode, monkeypatch):
    directory = encode()
    with tarfile.open(first_tar(directory)) as tar:
        latent = tar.getmembers()[0]
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}]), allow_pickle=True)
    data = bytearray(first_tar(directory).read_bytes())
    data[latent.offset_data : latent.offset_data + latent.size] = pickled.getvalue().ljust(latent.size, b"\0")
    first_tar(directory).write_bytes(data)
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(UserError, match=r"latent\.npy of sample 000000000 .* is damaged"):
        read_all(directory)


def test_a_label_that_is_no_number_is_refused(encode):
    directory = encode()
    data = first_tar(directory).read_bytes()
    with tarfile.open(first_tar(directory)) as tar:
        label = next(info for info in tar if info.name.endswith(".cls"))
    first_tar(directory).write_bytes(data[: label.offset_data] + b"x" + data[label.offset_data + 1 :])
    with pytest.raises(UserError, match="which is no class index"):
        read_all(directory)


def test_a_link_is_not_followed(encode, tmp_path):
    directory = encode()
    (tmp_path / "secret").write_text("secret")
    add_member(first_tar(directory), "0.cls", b"", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret"))
    assert Counter(read_all(directory)) == Counter(everything(encode("again")))


def cut_between_samples(path):
    """Keep the first two samples and no end-of-archive blocks."""
    with tarfile.open(path) as tar:
        third = next(info for info in tar if info.name.startswith("000000002"))
    os.truncate(path, third.offset)


def zero_tail(path):
    with tarfile.open(path) as tar:
        third = next(info for info in tar if info.name.startswith("000000002"))
    data = path.read_bytes()
    path.write_bytes(data[: third.offset] + bytes(len(data) - third.offset))


def append_a_sample(path):
    """The last sample a second time, under another key."""
    with tarfile.open(path) as tar:
        last = [(info, tar.extractfile(info).read()) for info in tar if info.name.startswith("000000004")]
    with tarfile.open(path, "a") as tar:
        for info, data in last:
            info.name = info.name.replace("000000004", "999999999")
            tar.addfile(info, io.BytesIO(data))


DAMAGES = {
    "cut between samples": cut_between_samples,
    "cut in a sample": lambda path: os.truncate(path, path.stat().st_size // 2 // 512 * 512 + 100),
    "zeroed tail": zero_tail,
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "one sample more": append_a_sample,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("over_http", [False, True], ids=["path", "http"])
def test_a_damaged_tar_is_an_error_that_names_it(encode, damage, over_http):
    directory = encode()
    damage(first_tar(directory))
    with served_by_ranges(directory) as server, pytest.raises(UserError, match=r"shard-000000\.tar"):
        read_all(server.url if over_http else directory)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        StreamedSet(str(tmp_path), SMALL)
