"""What the streaming reader refuses: addresses, members and shards that are not what a set holds."""

import io
import os
import tarfile
from collections import Counter

import numpy as np
import pytest
from serving import served_by_ranges
from streams import SMALL, everything, read_all, read_rows

from latentdebias.batches.plan import plan_batches
from latentdebias.batches.streaming import StreamedSet
from latentdebias.errors import UserError


def first_tar(folder):
    return folder / "shard-000000.tar"


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


@pytest.mark.parametrize("content", [None, b"", b"x" * 400])
def test_an_index_that_is_needed_to_begin_within_a_shard_is_named(own_set, content):
    for path in own_set.glob("*.index.npy"):
        path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=r"index\.npy cannot be read"):
        read_rows(own_set, plan_batches(0, 3, None, 1, 3), range(7))


@pytest.mark.parametrize(
    "url",
    ["pipe:touch {0}", "pipe://touch {0}", "PIPE:touch {0}", "gs://bucket/set", "ftp://host/set", "simplecache::file://{0}",
     "file://{0}::https://host", "github://a:b@/set", "file:{0}"],
)  # fmt: skip
def test_other_schemes_are_refused_by_name_before_anything_is_opened(tmp_path, monkeypatch, url):
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_: pytest.fail("something was opened"))
    url = url.format(tmp_path / "made")
    with pytest.raises(UserError) as caught:
        StreamedSet(url, SMALL)
    assert url in str(caught.value)
    assert "https" in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "name", ["a.pyd", "a.pkl", "a.pickle", "a.pth", "a.pt", "a.py", "a.latent.npy.gz", "../a.latent.npy", "/a.cls", "a"]
)
def test_a_member_that_no_shard_holds_is_refused_by_name_and_never_decoded(own_set, name, monkeypatch):
    add_member(first_tar(own_set), name, b"cos\nsystem\n(S'exit 3'\ntR.")
    monkeypatch.setattr("pickle.loads", lambda *_: pytest.fail("unpickled"))
    with pytest.raises(UserError, match="Nothing of it was decoded") as caught:
        read_all(own_set)
    assert repr(name) in str(caught.value)
    assert "shard-000000.tar" in str(caught.value)


def test_a_pickled_array_is_not_loaded(own_set, monkeypatch):
    with tarfile.open(first_tar(own_set)) as tar:
        latent = tar.getmembers()[0]
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}]), allow_pickle=True)
    data = bytearray(first_tar(own_set).read_bytes())
    data[latent.offset_data : latent.offset_data + latent.size] = pickled.getvalue().ljust(latent.size, b"\0")
    first_tar(own_set).write_bytes(data)
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(UserError, match=r"latent\.npy of sample 000000000 .* is damaged"):
        read_all(own_set)


def test_a_label_that_is_no_number_is_refused(own_set):
    data = first_tar(own_set).read_bytes()
    with tarfile.open(first_tar(own_set)) as tar:
        label = next(info for info in tar if info.name.endswith(".cls"))
    first_tar(own_set).write_bytes(data[: label.offset_data] + b"x" + data[label.offset_data + 1 :])
    with pytest.raises(UserError, match="which is no class index"):
        read_all(own_set)


def test_a_link_is_not_followed(own_set, small_set, tmp_path):
    (tmp_path / "secret").write_text("secret")
    add_member(first_tar(own_set), "0.cls", b"", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret"))
    assert Counter(read_all(own_set)) == Counter(everything(small_set))


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
def test_a_damaged_tar_is_an_error_that_names_it(own_set, damage, over_http):
    damage(first_tar(own_set))
    with served_by_ranges(own_set) as server, pytest.raises(UserError, match=r"shard-000000\.tar"):
        read_all(server.url if over_http else own_set)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        StreamedSet(str(tmp_path), SMALL)
