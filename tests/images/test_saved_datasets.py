import io
import shutil
import sys

import datasets
import numpy as np
import pytest
from PIL import Image

from latentdebias.errors import UserError
from latentdebias.images.find import NO_LABEL, find_images
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.reader import LatentShards


def png(number):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def save(tmp_path):
    """Save four images with the labels given, as the feature given; the folder."""

    def run(labels=None, feature=None):
        columns = {"image": [{"bytes": png(number), "path": None} for number in range(4)]}
        features = {"image": datasets.Image()}
        if labels:
            columns["label"], features["label"] = labels, feature
        dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        dataset.save_to_disk(tmp_path / "saved")
        return tmp_path / "saved"

    return run


def labels_of(found):
    return [image.label for image in found.images]


def test_rows_are_read_undecoded_in_their_order(save):
    found = find_images(str(save()))
    assert [image.read() for image in found.images] == [png(number) for number in range(4)]
    assert [image.name for image in found.images] == ["saved[0]", "saved[1]", "saved[2]", "saved[3]"]
    assert (labels_of(found), found.num_classes) == ([NO_LABEL] * 4, 0)


def test_class_labels_keep_their_names_and_order(save):
    found = find_images(str(save([1, 0, 1, 1], datasets.ClassLabel(names=["zebra", "ant", "unseen"]))))
    assert (labels_of(found), found.class_names, found.num_classes) == ([1, 0, 1, 1], ["zebra", "ant", "unseen"], 3)


def test_integers_are_class_indices(save):
    found = find_images(str(save([5, 0, None, -2], datasets.Value("int64"))))
    assert (labels_of(found), found.class_names, found.num_classes) == ([5, 0, NO_LABEL, NO_LABEL], [], 6)
    assert [image.fault for image in found.images[2:]] == [
        "no label, while other rows have one",
        "class index -2 is no integer in 0..2147483647",
    ]


def test_strings_are_class_names(save):
    found = find_images(str(save(["dog", "cat", "dog", "emu"], datasets.Value("string"))))
    assert (labels_of(found), found.class_names) == ([1, 0, 1, 2], ["cat", "dog", "emu"])


def test_worker_processes_read_the_same(save, encoder, tmp_path):
    found = find_images(str(save([0, 1, 0, 1], datasets.ClassLabel(names=["a", "b"]))))
    for workers in (0, 2):
        encode_images(found, encoder, tmp_path / f"{workers}", EncodeJob(resolution=8, batch_size=1, workers=workers))
    here, there = (LatentShards(tmp_path / f"{workers}").manifest for workers in (0, 2))
    assert here == there
    assert here.count == 4


def test_splits_are_named(save, tmp_path):
    split = datasets.load_from_disk(save())
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path / "splits")
    with pytest.raises(UserError, match=r"splits/\{test,train\}"):
        find_images(str(tmp_path / "splits"))
    assert len(find_images(str(tmp_path / "splits" / "test")).images) == 4


def test_a_dataset_without_an_image_column_is_refused(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(UserError, match=r"no image column 'image'.*text"):
        find_images(str(tmp_path / "texts"))


def test_a_damaged_dataset_is_refused(save):
    folder = save()
    for data in folder.glob("*.arrow"):
        data.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read as a saved dataset"):
        find_images(str(folder))


def test_without_the_extra_the_command_that_installs_it_is_named(save, tmp_path, monkeypatch):
    folder = shutil.copytree(save(), tmp_path / "elsewhere")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'latentdebias\[datasets\]'"):
        find_images(str(folder))
