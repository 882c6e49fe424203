import io
import os
import tarfile
from dataclasses import dataclass

import pytest

from latentdebias.errors import UserError
from latentdebias.images.find import IMAGE_SOURCES, NO_LABEL, ImageSet, SourceImage, find_images


def touch(path, data=b"image"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def listing(images):
    return [(image.name, image.label) for image in images.images]


def test_class_folders_are_labelled_in_sorted_order(tmp_path):
    for name in ["b/2.JPEG", "b/sub/1.png", "a/x.webp", "b/.hidden.png", "b/notes.txt", ".git/a.png"]:
        touch(tmp_path / name)
    found = find_images(str(tmp_path))
    assert listing(found) == [("a/x.webp", 0), ("b/2.JPEG", 1), ("b/sub/1.png", 1)]
    assert (found.class_names, found.num_classes) == (["a", "b"], 2)
    assert found.images[0].read() == b"image"


def test_flat_directory_has_no_labels(tmp_path):
    for name in ["2.png", "1.png", "readme.md"]:
        touch(tmp_path / name)
    found = find_images(str(tmp_path))
    assert listing(found) == [("1.png", NO_LABEL), ("2.png", NO_LABEL)]
    assert (found.class_names, found.num_classes) == ([], 0)


def test_tar_samples_are_read_by_offset(tmp_path):
    write_tar(
        tmp_path / "x.tar",
        [("a.jpg", b"A"), ("a.cls", b"3\n"), ("d/b.cls", b"0"), ("d/b.png", b"BB"), ("d/b.json", b"")],
    )
    found = find_images(str(tmp_path / "x.tar"))
    assert listing(found) == [("x.tar/a.jpg", 3), ("x.tar/d/b.png", 0)]
    assert [image.read() for image in found.images] == [b"A", b"BB"]
    assert found.num_classes == 4


def test_directory_and_brace_pattern_of_tars_list_the_same(tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [(f"{number}.jpg", b"A")])
    by_pattern = find_images(str(tmp_path / "{0..2}.tar"))
    assert listing(by_pattern) == listing(find_images(str(tmp_path)))
    assert len(by_pattern.images) == 3


@pytest.mark.parametrize("text", ["-1", "cat", "1.5", "", "99999999999", "٣"])
def test_a_wrong_label_is_a_named_fault(tmp_path, text):
    write_tar(tmp_path / "x.tar", [("a.jpg", b"A"), ("a.cls", text.encode()), ("b.jpg", b"B"), ("b.cls", b"1")])
    bad, good = find_images(str(tmp_path / "x.tar")).images
    assert repr(text) in bad.fault
    assert bad.label == NO_LABEL
    assert (good.fault, good.label) == ("", 1)


def test_a_missing_label_among_labels_is_a_fault(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.jpg", b"A"), ("b.jpg", b"B"), ("b.cls", b"1")])
    assert "no .cls" in find_images(str(tmp_path / "x.tar")).images[0].fault


def test_two_images_under_one_key_are_a_fault(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.jpg", b"A"), ("a.png", b"B"), ("a.cls", b"0")])
    (image,) = find_images(str(tmp_path / "x.tar")).images
    assert "two images" in image.fault


@pytest.mark.parametrize("source", ["pipe:touch ran", "pipe:cat x.tar", "gopher://example.org/x.tar"])
def test_other_addresses_are_refused_by_name(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="refused") as caught:
        find_images(source)
    assert repr(source) in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [1, 2], ids=["in a member", "at a sample boundary"])
def test_a_tar_that_was_cut_short_is_refused(tmp_path, cut):
    path = tmp_path / "x.tar"
    write_tar(path, [(f"{number}.jpg", bytes([number]) * 512) for number in range(4)])
    path.write_bytes(path.read_bytes()[: 3 * 1024 - 512 * (2 - cut)])
    with pytest.raises(UserError, match=r"x\.tar"):
        find_images(str(path))


def test_a_tar_with_a_damaged_header_is_refused(tmp_path):
    path = tmp_path / "x.tar"
    write_tar(path, [(f"{number}.jpg", b"A" * 512) for number in range(4)])
    data = bytearray(path.read_bytes())
    data[2048:2560] = b"?" * 512
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        find_images(str(path))


def test_a_compressed_tar_is_refused(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.jpg", b"A")], "w:gz")
    with pytest.raises(UserError, match="uncompressed"):
        find_images(str(tmp_path / "x.tar"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images"),
        (["notes.txt"], "no images"),
        (["a.png", "dog/b.png"], "ambiguous"),
        (["cat/a.png", "dog/notes.txt"], "'dog' holds no images"),
    ],
)
def test_unclear_directories_are_refused(tmp_path, files, message):
    for name in files:
        touch(tmp_path / name)
    with pytest.raises(UserError, match=message):
        find_images(str(tmp_path))


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        find_images(str(tmp_path / "nowhere"))


def test_fingerprint_tells_lists_apart(tmp_path):
    for name in ["a/1.png", "b/1.png"]:
        touch(tmp_path / name)
    first = find_images(str(tmp_path)).fingerprint()
    assert find_images(str(tmp_path)).fingerprint() == first
    touch(tmp_path / "b/2.png")
    assert find_images(str(tmp_path)).fingerprint() != first


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch):
    touch(tmp_path / "images" / "cat" / "a.jpg")
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="cannot be listed"):
        find_images(str(tmp_path / "images"))


def test_a_link_back_to_its_own_folder_is_refused(tmp_path):
    touch(tmp_path / "images" / "cat" / "a.jpg")
    (tmp_path / "images" / "cat" / "again").symlink_to(tmp_path / "images")
    with pytest.raises(UserError, match="leads back"):
        find_images(str(tmp_path / "images"))


def test_unbalanced_braces_are_an_error():
    with pytest.raises(UserError, match="braces do not match"):
        find_images("images/{000..009.tar")


def test_a_users_own_source_is_asked_before_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(IMAGE_SOURCES, "_entries", dict(IMAGE_SOURCES._entries))
    touch(tmp_path / "scans" / "a.png")
    assert listing(find_images(str(tmp_path / "scans"))) == [("a.png", NO_LABEL)]

    @IMAGE_SOURCES.register("scans")
    @dataclass(frozen=True)
    class Scans:
        def recognises(self, source):
            return source.endswith("scans")

        def list_images(self, source):
            return ImageSet([SourceImage("mine", f"{source}/a.png", 4)], [], 5)

    assert listing(find_images(str(tmp_path / "scans"))) == [("mine", 4)]
    with pytest.raises(UserError, match="no such directory or list"):
        find_images(str(tmp_path / "others"))
