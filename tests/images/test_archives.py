import io
import pickle
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from latentdebias.errors import UserError
from latentdebias.images.archives import UNSAFE_NAME
from latentdebias.images.find import NO_LABEL, find_images
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.reader import LatentShards

ESCAPING = ["../../escape.jpg", "/tmp/escape.jpg", "a/../b.jpg", "a\\..\\escape.jpg", "C:/escape.jpg"]


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_stored_zip(path, members):
    write_zip(path, members, zipfile.ZIP_STORED)


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a name given twice
        for name, data in members:
            archive.writestr(name, data)


@pytest.fixture(params=[("x.tar", write_tar), ("x.zip", write_stored_zip), ("x.zip", write_zip)], ids=lambda p: p[1])
def write(request, tmp_path):
    """Write members as an archive of each kind; the path as `find_images` takes it."""
    name, write_archive = request.param

    def run(members):
        write_archive(tmp_path / name, members)
        return str(tmp_path / name)

    return run


def listing(images):
    return [(image.name.partition("/")[2], image.label) for image in images.images]


class Malice:
    def __reduce__(self):
        return open, ("ran", "w")


def test_folders_are_classes_in_sorted_order_and_members_are_read_in_place(write, tmp_path):
    found = find_images(
        write([("b/2.JPEG", b"A" * 99), ("a/x.v2.png", b"BB"), ("b/notes.txt", b"no"), ("b/1.png", b"C")])
    )
    assert listing(found) == [("b/2.JPEG", 1), ("a/x.v2.png", 0), ("b/1.png", 1)]
    assert (found.class_names, found.num_classes) == (["a", "b"], 2)
    assert [image.read() for image in found.images] == [b"A" * 99, b"BB", b"C"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("prefix", ["", "train/", "sets/train/", "./"])
def test_folders_that_hold_everything_are_passed_through(write, prefix):
    found = find_images(write([(f"{prefix}cat/1.png", b"A"), (f"{prefix}dog/deep/2.png", b"B")]))
    assert [image.label for image in found.images] == [0, 1]
    assert found.class_names == ["cat", "dog"]


@pytest.mark.parametrize("folder", ["", "all/"])
def test_a_flat_archive_has_no_labels(write, folder):
    found = find_images(write([(f"{folder}b.png", b"B"), (f"{folder}a.png", b"A")]))
    assert [image.label for image in found.images] == [NO_LABEL, NO_LABEL]
    assert found.num_classes == 0


def test_class_indices_beside_the_images_win_over_folders(write):
    found = find_images(write([("d/a.jpg", b"A"), ("d/a.cls", b"3\n"), ("e/b.jpg", b"B"), ("e/b.cls", b"0")]))
    assert listing(found) == [("d/a.jpg", 3), ("e/b.jpg", 0)]
    assert (found.class_names, found.num_classes) == ([], 4)


def test_images_beside_class_folders_are_ambiguous(write):
    with pytest.raises(UserError, match=r"ambiguous.*'a\.png'.*'dog'"):
        find_images(write([("a.png", b"A"), ("dog/b.png", b"B")]))


def test_a_name_given_twice_is_a_fault(write):
    found = find_images(write([("a.png", b"A"), ("a.png", b"B"), ("b.png", b"C")]))
    assert [bool(image.fault) for image in found.images] == [False, True, False]


def test_an_archive_without_images_is_refused(write):
    with pytest.raises(UserError, match="no images"):
        find_images(write([("readme.md", b"A")]))


@pytest.mark.parametrize("name", ESCAPING)
def test_names_that_leave_the_archive_are_refused_by_name(write, name, tmp_path):
    escaping, good = find_images(write([(name, b"A"), ("cat/good.jpg", b"B")])).images
    assert escaping.name.endswith(name)
    assert "'..'" in escaping.fault
    assert good.fault == ""
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a/..b/c..jpg", ".../x.jpg", "ab:c/d.jpg"])
def test_ordinary_names_are_not_refused(name):
    assert not UNSAFE_NAME.search(name)


@pytest.mark.parametrize("name", ["a.pyd", "a.pickle", "a.pkl", "a.pth", "a.py"])
def test_members_that_would_run_code_are_passed_over(write, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_images(write([(name, pickle.dumps(Malice())), ("b.jpg", b"B")]))
    assert [image.read() for image in found.images] == [b"B"]
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_is_called_an_image_is_an_undecodable_one(write, encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 100, np.uint8)).save(buffer, "PNG")
    found = find_images(write([("evil.jpg", pickle.dumps(Malice())), ("good.png", buffer.getvalue())]))
    encode_images(found, encoder, tmp_path / "out", EncodeJob(resolution=32, workers=0, max_reject_share=0.5))
    manifest = LatentShards(tmp_path / "out").manifest
    assert [rejection.name.partition("/")[2] for rejection in manifest.rejected] == ["evil.jpg"]
    assert manifest.count == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tars_links_and_devices_are_refused_by_name(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = kind, "/etc/passwd"
        tar.addfile(link)
    (image,) = find_images(str(tmp_path / "x.tar")).images
    assert "link" in image.fault


def zip_with(tmp_path, data=b"A" * 100, **fields):
    """A zip of `a.jpg`, whose header fields are set before it is written."""
    info = zipfile.ZipInfo("a.jpg")
    info.compress_type = zipfile.ZIP_DEFLATED
    for name, value in fields.items():
        setattr(info, name, value)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, data)
    return tmp_path / "x.zip"


def patch_directory(path, offset, data):
    """Overwrite a field of the first entry in the zip's central directory."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + offset
    content[start : start + len(data)] = data
    path.write_bytes(content)


def only_image(path):
    (image,) = find_images(str(path)).images
    return image


def test_a_zips_links_are_refused_by_name(tmp_path):
    assert "link" in only_image(zip_with(tmp_path, b"/etc/passwd", external_attr=0o120777 << 16)).fault


def test_an_encrypted_member_is_refused_by_name(tmp_path):
    path = zip_with(tmp_path)
    patch_directory(path, 8, b"\x01\x00")
    assert only_image(path).fault == "encrypted"


def test_another_compression_is_refused_by_name(tmp_path):
    assert "compression method 14" in only_image(zip_with(tmp_path, compress_type=zipfile.ZIP_LZMA)).fault


def test_a_member_that_declares_gigabytes_is_refused_by_name(tmp_path):
    path = zip_with(tmp_path)
    patch_directory(path, 24, (2**31).to_bytes(4, "little"))
    assert "2147483648 bytes once inflated" in only_image(path).fault


def test_a_member_that_inflates_past_what_it_declares_is_stopped_there(tmp_path):
    path = zip_with(tmp_path, bytes(10_000_000))
    patch_directory(path, 24, (1000).to_bytes(4, "little"))
    with pytest.raises(ValueError, match="damaged"):
        only_image(path).read()


@pytest.mark.parametrize("position", [0, 40], ids=["header", "data"])
def test_a_damaged_member_is_an_error_when_read(tmp_path, position):
    path = tmp_path / "x.zip"
    write_stored_zip(path, [("a.jpg", b"A" * 100)])
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        only_image(path).read()


def test_a_zip_that_was_cut_short_is_refused(tmp_path):
    path = zip_with(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"x\.zip.*cannot be read as a zip"):
        find_images(str(path))


def test_a_directory_of_zips_lists_them_in_order(tmp_path):
    for number in range(3):
        write_zip(tmp_path / f"{number}.zip", [(f"{'ab'[number % 2]}/{number}.jpg", b"A")])
    found = find_images(str(tmp_path))
    assert listing(found) == [("a/0.jpg", 0), ("b/1.jpg", 1), ("a/2.jpg", 0)]
    assert found.fingerprint() == find_images(str(tmp_path / "{0..2}.zip")).fingerprint()


def test_tars_beside_zips_are_ambiguous(tmp_path):
    write_zip(tmp_path / "a.zip", [("a.jpg", b"A")])
    write_tar(tmp_path / "a.tar", [("a.jpg", b"A")])
    with pytest.raises(UserError, match="ambiguous"):
        find_images(str(tmp_path))
