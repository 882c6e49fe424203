import json

import pytest

from latentdebias.errors import UserError
from latentdebias.images.find import NO_LABEL, find_images
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.reader import LatentShards


def write_csv(folder, rows):
    path = folder / "list.csv"
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return str(path)


def write_jsonl(folder, rows):
    header, *rows = rows
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(dict(zip(header, row, strict=False))) + "\n" for row in rows))
    return str(path)


@pytest.fixture(params=[write_csv, write_jsonl])
def write(request, tmp_path):
    """Write a list of each kind, the header first; its path."""
    return lambda rows: request.param(tmp_path, rows)


def listing(images):
    return [(image.name, image.label) for image in images.images]


def test_paths_are_relative_to_the_list_and_names_become_sorted_classes(write, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.png").write_bytes(b"B")
    found = find_images(write([("path", "label"), ("deep/b.png", "dog"), ("a.png", "cat"), ("c.png", "dog")]))
    assert listing(found) == [("deep/b.png", 1), ("a.png", 0), ("c.png", 1)]
    assert (found.class_names, found.num_classes) == (["cat", "dog"], 2)
    assert found.images[0].read() == b"B"


def test_digits_are_class_indices(write):
    found = find_images(write([("path", "label"), ("a.png", 7), ("b.png", 0)]))
    assert listing(found) == [("a.png", 7), ("b.png", 0)]
    assert (found.class_names, found.num_classes) == ([], 8)


def test_without_labels_there_are_no_classes(write):
    found = find_images(write([("path",), ("b.png",), ("a.png",)]))
    assert listing(found) == [("b.png", NO_LABEL), ("a.png", NO_LABEL)]
    assert found.num_classes == 0


@pytest.mark.parametrize("label", ["cat", "3"])
def test_a_missing_label_among_labels_is_a_fault(write, label):
    labelled, bare = find_images(write([("path", "label"), ("a.png", label), ("b.png", "")])).images
    assert (labelled.fault, bare.fault) == ("", "no label, while other lines have one")


def test_names_and_indices_in_one_list_are_refused(write):
    with pytest.raises(UserError, match="'cat' and 3"):
        find_images(write([("path", "label"), ("a.png", 3), ("b.png", "cat")]))


def test_a_path_listed_twice_is_a_fault_that_names_the_first_line(write):
    first, second = find_images(write([("path", "label"), ("a.png", "cat"), ("a.png", "dog")])).images
    assert first.fault == ""
    assert "listed twice, first at" in second.fault


def test_an_unknown_column_is_refused_with_the_nearest(write):
    with pytest.raises(UserError, match=r"unknown column 'lable'\. Did you mean 'label'"):
        find_images(write([("path", "lable"), ("a.png", "cat")]))


def test_a_line_without_a_path_is_named(write):
    with pytest.raises(UserError, match=r"list\.\w+:\d: 'path' is"):
        find_images(write([("path", "label"), ("", "cat")]))


@pytest.mark.parametrize("label", [True, 1.5, [1], {"a": 1}])
def test_a_label_of_another_type_is_refused(tmp_path, label):
    with pytest.raises(UserError, match=r"list\.jsonl:1: 'label' is"):
        find_images(write_jsonl(tmp_path, [("path", "label"), ("a.png", label)]))


@pytest.mark.parametrize("text", ["{", "[1]", '"a"', "1", "[" * 100_000])
def test_a_line_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "list.jsonl").write_text(f'{{"path": "a.png"}}\n\n{text}\n')
    with pytest.raises(UserError, match=r"list\.jsonl:3: no JSON object"):
        find_images(str(tmp_path / "list.jsonl"))


def test_a_value_too_many_is_refused(tmp_path):
    with pytest.raises(UserError, match="a value too many"):
        find_images(write_csv(tmp_path, [("path", "label"), ("a.png", "cat", "dog")]))


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_lists_that_cannot_be_read_are_users_errors(tmp_path, name):
    with pytest.raises(UserError, match="cannot be read as a list"):
        find_images(str(tmp_path / name))
    (tmp_path / name).write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(UserError, match="cannot be read as a list"):
        find_images(str(tmp_path / name))


def test_an_empty_list_is_refused(write):
    with pytest.raises(UserError, match="no images"):
        find_images(write([("path", "label")]))


def test_missing_files_and_addresses_are_rejected_by_name(image_dir, encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [("path", "label"), ("images/cat/00.png", "cat"), ("gone.png", "cat"), ("pipe:touch ran", "cat")]
    found = find_images(write_csv(tmp_path, rows))
    encode_images(found, encoder, tmp_path / "out", EncodeJob(resolution=32, workers=0, max_reject_share=0.9))
    manifest = LatentShards(tmp_path / "out").manifest
    assert manifest.count == 1
    assert [rejection.name for rejection in manifest.rejected] == ["gone.png", "pipe:touch ran"]
    assert all("No such file" in rejection.reason for rejection in manifest.rejected)
    assert not (tmp_path / "ran").exists()
