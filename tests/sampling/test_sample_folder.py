import json

import numpy as np
import pytest
import torch
from PIL import Image

from latentdebias.errors import UserError
from latentdebias.sampling.sample_folder import write_samples

LABELS = torch.tensor([3, 3, 7, 7, 7])
IMAGES = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pngs(folder):
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def test_each_image_is_written_under_its_class_and_the_record_beside_them(tmp_path):
    write_samples(tmp_path / "out", IMAGES.split(2), LABELS, 2, {"steps": 3})
    images = pngs(tmp_path / "out" / "images")
    assert list(images) == [
        "0003/000000.png",
        "0003/000001.png",
        "0007/000002.png",
        "0007/000003.png",
        "0007/000004.png",
    ]
    assert np.array_equal(np.stack(list(images.values())), IMAGES.permute(0, 2, 3, 1))
    assert json.loads((tmp_path / "out" / "sampling.json").read_text()) == {"steps": 3}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"images", "grid.png", "sampling.json"}


def test_images_are_on_disk_before_the_next_batch_is_drawn(tmp_path):
    seen = []

    def batches():
        for batch in IMAGES.split(2):
            seen.append(len(pngs(tmp_path / "images.new")))
            yield batch

    write_samples(tmp_path, batches(), LABELS, 2, {})
    assert seen == [0, 2, 4]


def test_the_grid_shows_the_first_hundred_only(tmp_path):
    many = torch.zeros(130, 3, 96, 96, dtype=torch.uint8)
    write_samples(tmp_path, many.split(50), torch.zeros(130, dtype=torch.long), 10, {})
    assert Image.open(tmp_path / "grid.png").size == (10 * 98 + 2, 10 * 98 + 2)


def failing_batches():
    yield IMAGES[:2]
    raise RuntimeError("out of memory")


def test_a_failed_draw_leaves_the_old_set_and_nothing_new(tmp_path):
    write_samples(tmp_path, [IMAGES], LABELS, 2, {"old": True}, tmp_path / "all.npz")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RuntimeError, match="out of memory"):
        write_samples(tmp_path, failing_batches(), LABELS, 2, {"old": False}, tmp_path / "all.npz")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "images.new").exists()


def test_an_npz_that_cannot_be_written_leaves_the_old_set(tmp_path):
    write_samples(tmp_path, [IMAGES], LABELS, 2, {})
    before = pngs(tmp_path)
    with pytest.raises(UserError, match=r"Cannot write .*all\.npz"):
        write_samples(tmp_path, [IMAGES.flip(0)], LABELS, 2, {}, tmp_path / "nowhere" / "all.npz")
    assert list(pngs(tmp_path)) == list(before)
    assert all(np.array_equal(image, before[name]) for name, image in pngs(tmp_path).items())


def test_a_smaller_set_replaces_a_larger_one_whole(tmp_path):
    write_samples(tmp_path, [IMAGES], LABELS, 2, {})
    write_samples(tmp_path, [IMAGES[:1]], LABELS[:1], 2, {})
    assert list(pngs(tmp_path / "images")) == ["0003/000000.png"]
    assert not list(tmp_path.glob("images.*"))


def test_images_without_a_record_are_foreign(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="choose another --out"):
        write_samples(tmp_path, [IMAGES], LABELS, 2, {})
    assert (tmp_path / "images" / "holiday.png").read_bytes() == b"mine"
