import io
import os
import tarfile
from collections import Counter

import numpy as np
import pytest
from serving import served

from latentdebias.errors import UserError
from latentdebias.shards.epochs import IndexedReader, Share
from latentdebias.shards.order import BlockShuffle, FullShuffle
from latentdebias.shards.reader import LatentShards
from latentdebias.shards.streaming import StreamedShards


def rows(batches):
    """What identifies each sample of some batches: its stored bytes and its label."""
    return [
        (value.tobytes(), label)
        for values, labels in batches
        for value, label in zip(values, labels.tolist(), strict=True)
    ]


def everything(directory):
    shards = LatentShards(directory)
    return Counter(rows([shards.read(np.arange(len(shards)), np.zeros(len(shards), bool))]))


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


def read_all(url):
    return list(StreamedShards(str(url)).epoch(Share(batch_size=1), 0))


@pytest.mark.parametrize("reader", ["indexed", "blocks", "streamed"])
@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 1), (3, 7), (4, 2), (2, 10)])
def test_every_rank_makes_equal_steps_and_no_sample_is_read_twice(encode, reader, world_size, batch_size):
    """21 samples in shards of 5, 5, 5, 5 and 1."""
    directory = encode()
    build = {
        "indexed": lambda: IndexedReader(LatentShards(directory), FullShuffle()),
        "blocks": lambda: IndexedReader(LatentShards(directory), BlockShuffle(block=5, blocks_in_window=2)),
        "streamed": lambda: StreamedShards(str(directory), shuffle_buffer=6),
    }[reader]
    steps = 21 // (world_size * batch_size)
    for epoch in range(2):
        seen = []
        for rank in range(world_size):
            share = Share(batch_size=batch_size, rank=rank, world_size=world_size)
            batches = list(build().epoch(share, epoch))
            assert [len(labels) for _, labels in batches] == [batch_size] * steps
            seen += rows(batches)
        assert len(set(seen)) == steps * world_size * batch_size
        assert not Counter(seen) - everything(directory)


@pytest.mark.parametrize("scheme", ["path", "file", "http"])
def test_a_set_streams_from_a_folder_and_over_http(encode, scheme):
    directory = encode()
    with served(directory) as (address, _):
        url = {"path": str(directory), "file": f"file://{directory}", "http": address}[scheme]
        assert Counter(rows(read_all(url))) == everything(directory)


def test_the_indexed_reader_begins_at_any_step(encode):
    reader = IndexedReader(LatentShards(encode()), FullShuffle())
    share = Share(batch_size=2, rank=1, world_size=2, flip_probability=0.5)
    assert rows(reader.epoch(share, 1, first_step=3)) == rows(reader.epoch(share, 1))[6:]


def test_epochs_come_in_other_orders_and_an_epoch_repeats(encode):
    shards = StreamedShards(str(encode()))
    orders = [rows(shards.epoch(Share(batch_size=3), epoch)) for epoch in (0, 1, 0)]
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_mirrored_views_come_at_the_set_rate(encode, probability):
    directory = encode()
    shards = LatentShards(directory)
    mirrored = {value.tobytes() for value in shards.read(np.arange(21), np.ones(21, bool))[0]}
    share = Share(batch_size=21, flip_probability=probability)
    values = [value for epoch in range(10) for value in next(StreamedShards(str(directory)).epoch(share, epoch))[0]]
    assert np.mean([value.tobytes() in mirrored for value in values]) == pytest.approx(probability, abs=0.12)


def test_mirrored_views_that_a_set_lacks_are_refused(encode):
    shards = StreamedShards(str(encode(flips=False)))
    with pytest.raises(UserError, match="no mirrored views"):
        next(shards.epoch(Share(batch_size=1, flip_probability=0.5), 0))


def test_more_ranks_than_batches_is_an_error_with_the_mend():
    with pytest.raises(UserError, match="to 2 or less"):
        Share(batch_size=8, world_size=10).steps(21)


@pytest.mark.parametrize(
    "url",
    ["pipe:touch {0}", "pipe://touch {0}", "PIPE:touch {0}", "gs://bucket/set", "ftp://host/set", "simplecache::file://{0}",
     "file://{0}::https://host", "github://a:b@/set", "file:{0}"],
)  # fmt: skip
def test_other_schemes_are_refused_by_name_before_anything_is_opened(tmp_path, monkeypatch, url):
    monkeypatch.setattr("fsspec.open", lambda *_: pytest.fail("something was opened"))
    url = url.format(tmp_path / "made")
    with pytest.raises(UserError) as caught:
        StreamedShards(url)
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
    assert Counter(rows(read_all(directory))) == everything(encode("again"))


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
    with served(directory) as (address, _), pytest.raises(UserError, match=r"shard-000000\.tar"):
        read_all(address if over_http else directory)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        StreamedShards(str(tmp_path))
