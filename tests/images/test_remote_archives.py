import re
import socket
import tarfile

import pytest
from serving import served, served_by_ranges
from shard_fixtures import write_tar

from latentdebias.errors import UserError
from latentdebias.images.find import find_images
from latentdebias.remote import read_range
from latentdebias.shards.format import read_manifest


def unused_url():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("workers", [0, 2])
def test_tars_at_an_address_give_the_same_set_as_local_ones(tars, encode_source, contents, workers):
    expected = contents(encode_source(find_images(f"{tars}/{{0..2}}.tar"), "local"))
    with served_by_ranges(tars) as server:
        # Listed in this process, which fsspec's threads then live in, and read in forked workers.
        found = find_images(f"{server.url}/{{0..2}}.tar")
        directory = encode_source(found, "remote", workers)
    assert contents(directory) == expected
    assert read_manifest(directory).count == 21


def test_file_addresses_are_read(tars):
    local, remote = find_images(f"{tars}/0.tar"), find_images(f"file://{tars}/0.tar")
    assert remote.fingerprint() == local.fingerprint()
    assert [image.read() for image in remote.images] == [image.read() for image in local.images]


def test_a_query_is_no_part_of_the_name(tars):
    with served_by_ranges(tars) as server:
        found = find_images(f"{server.url}/0.tar?signature=a/b")
    assert found.images[0].name == "0.tar/00.png"


def test_headers_of_small_members_share_requests(tmp_path):
    write_tar(tmp_path / "x.tar", [(f"{number:04d}.png", b"A" * 5000) for number in range(500)])
    with served_by_ranges(tmp_path) as server:
        assert len(find_images(f"{server.url}/x.tar").images) == 500
        assert len(server.requests) < 10


def test_reading_a_member_is_one_request(tars):
    with served_by_ranges(tars) as server:
        image = find_images(f"{server.url}/0.tar").images[3]
        server.requests.clear()
        image.read()
        assert server.requests == ["/0.tar"]


def test_crafted_members_are_faults_as_in_local_tars(tmp_path):
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    write_tar(tmp_path / "x.tar", [("../a.png", b"A"), (link, b""), ("ok.png", b"OK")])
    with served_by_ranges(tmp_path) as server:
        remote = find_images(f"{server.url}/x.tar").images
    assert [image.fault for image in remote] == [image.fault for image in find_images(f"{tmp_path}/x.tar").images]
    assert [bool(image.fault) for image in remote] == [True, True, False]


def test_an_unreachable_server_is_named():
    url = f"{unused_url()}/x.tar"
    with pytest.raises(UserError, match=f"{re.escape(url)} cannot be read .*Cannot connect"):
        find_images(url)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_fails_later_ends_the_job_and_rejects_nothing(tars, encode_source, workers):
    with served_by_ranges(tars) as server:
        found = find_images(f"{server.url}/{{0..2}}.tar")
        server.failing = True
        with pytest.raises(UserError, match=re.escape(f"{server.url}/0.tar cannot be read")) as caught:
            encode_source(found, "remote", workers)
    assert "rejected" not in str(caught.value)


def test_a_server_without_byte_ranges_is_named(tars):
    with served(tars) as (url, _):
        image = find_images(f"{url}/0.tar").images[0]
        with pytest.raises(UserError, match=r"0\.tar cannot be read .* byte ranges"):
            image.read()


def test_a_range_past_the_end_is_named(tars):
    size = (tars / "0.tar").stat().st_size
    with pytest.raises(UserError, match="10 bytes came for the 20"):
        read_range(f"file://{tars}/0.tar", size - 10, 20)


@pytest.mark.parametrize("cut", [700, 4096])
def test_a_remote_tar_that_was_cut_short_is_refused(tmp_path, cut):
    write_tar(tmp_path / "x.tar", [(f"{number}.png", b"A" * 512) for number in range(4)])
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:cut])
    with served_by_ranges(tmp_path) as server, pytest.raises(UserError, match=r"x\.tar"):
        find_images(f"{server.url}/x.tar")


@pytest.mark.parametrize("name", ["", "images/", "list.csv", "x.zip", "{x.tar,list.jsonl}"])
def test_only_tars_are_read_at_addresses(name):
    with pytest.raises(UserError, match=r"only \.tar archives"):
        find_images(f"{unused_url()}/{name}")


@pytest.mark.parametrize("source", ["pipe:touch ran.tar", "ftp://host/x.tar", "http://h/{a::file,b}.tar", "file:x.tar"])
def test_other_addresses_are_refused_by_name(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="refused") as caught:
        find_images(source)
    assert repr(source) in str(caught.value)
    assert not list(tmp_path.iterdir())
