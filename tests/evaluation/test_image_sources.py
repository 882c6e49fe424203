import io
import tarfile
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from latentdebias.autoencoders import load_autoencoder
from latentdebias.errors import UserError
from latentdebias.evaluation.sources.find import open_images, resolution_of
from latentdebias.evaluation.sources.image_files import FolderImages
from latentdebias.evaluation.sources.npz import NpzImages
from latentdebias.evaluation.sources.shards import ShardImages
from latentdebias.evaluation.sources.source import EvenlySpaced
from latentdebias.images.find import find_images
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.reader import LatentShards


def picture(seed, width=8, height=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def all_of(source):
    batches = list(source)
    images = torch.cat([batch.images for batch in batches])
    labels = [batch.labels for batch in batches]
    return images, None if labels[0] is None else torch.cat(labels)


def test_class_folders_give_pixels_and_labels_in_sorted_order(tmp_path):
    for name, seed in (("b/1.png", 2), ("a/2.png", 1), ("a/1.png", 0), ("c/deep/1.png", 3)):
        save(tmp_path / name, picture(seed))
    source = FolderImages(str(tmp_path), resolution=8, batch_size=3)
    images, labels = all_of(source)
    expected = np.stack([picture(seed) for seed in range(4)]).transpose(0, 3, 1, 2)
    assert torch.equal(images, torch.from_numpy(expected))
    assert labels.tolist() == [0, 0, 1, 2]
    assert (source.count, source.num_classes) == (4, 3)


def test_a_flat_folder_has_no_labels(tmp_path):
    save(tmp_path / "0.png", picture(0))
    source = FolderImages(str(tmp_path), resolution=8)
    assert all_of(source)[1] is None
    assert source.num_classes is None


def test_other_sizes_are_cropped_to_the_resolution(tmp_path):
    save(tmp_path / "wide.png", picture(0, width=20, height=10))
    save(tmp_path / "tall.png", picture(1, width=9, height=30))
    images, _ = all_of(FolderImages(str(tmp_path), resolution=8))
    assert images.shape == (2, 3, 8, 8)


def test_an_unusable_image_is_named_instead_of_left_out(tmp_path):
    save(tmp_path / "0.png", picture(0))
    (tmp_path / "1.png").write_bytes(b"no image at all")
    with pytest.raises(UserError, match=r"'1\.png' is unusable"):
        list(FolderImages(str(tmp_path), resolution=8))


def test_npz_gives_pixels_and_labels(tmp_path):
    pixels = np.stack([picture(seed) for seed in range(5)])
    np.savez(tmp_path / "samples.npz", pixels, np.array([4, 3, 2, 1, 0], dtype=np.int32))
    source = NpzImages(str(tmp_path / "samples.npz"), batch_size=2)
    images, labels = all_of(source)
    assert torch.equal(images, torch.from_numpy(pixels.transpose(0, 3, 1, 2)))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [4, 3, 2, 1, 0]
    assert source.count == 5


def test_npz_without_labels(tmp_path):
    np.savez(tmp_path / "samples.npz", picture(0)[None])
    assert all_of(NpzImages(str(tmp_path / "samples.npz")))[1] is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.zeros((2, 8, 8, 3), dtype=np.float32)], "float32"),
        ([np.zeros((2, 3, 8, 8), dtype=np.uint8)], r"\(2, 3, 8, 8\)"),
        ([np.zeros((2, 8, 8, 3), dtype=np.uint8), np.zeros(3, dtype=np.int64)], r"`arr_1` is int64 \(3,\)"),
        ([np.array([None], dtype=object)], "allow_pickle=False"),
    ],
)
def test_npz_of_another_content_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "samples.npz", *arrays)
    with pytest.raises(UserError, match=message):
        list(NpzImages(str(tmp_path / "samples.npz")))


@pytest.mark.parametrize("content", [None, b"not a zip"])
def test_npz_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "samples.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"samples\.npz is not readable"):
        list(NpzImages(str(path)))


@dataclass(frozen=True)
class Identity:
    id: str = "halving"
    weights_sha256: str = "a" * 64
    channels: int = 3
    factor: int = 1


class Halving:
    """An autoencoder whose latents are half the pixels, so that an unscaled mean decodes exactly."""

    device, dtype = torch.device("cpu"), torch.float32
    posterior, stored_dtype = "gaussian", "float16"

    def __init__(self, identity=Identity()):
        self.identity = identity

    def encode(self, images):
        return torch.cat([images / 2, torch.zeros_like(images)], dim=1)

    def decode(self, latents):
        return 2 * latents


@pytest.fixture
def shards(tmp_path):
    """Five images of two classes in two shards, with their mirrored views."""
    for index in range(5):
        save(tmp_path / "images" / "ab"[index % 2] / f"{index}.png", picture(index))
    listing = find_images(str(tmp_path / "images"))
    out = tmp_path / "shards"
    encode_images(listing, Halving(), out, EncodeJob(resolution=8, flips=True, samples_per_shard=3, workers=0))
    return out


def test_shards_decode_to_the_images_they_were_made_from(shards):
    source = ShardImages(LatentShards(shards), Halving(), batch_size=2)
    images, labels = all_of(source)
    expected, expected_labels = all_of(FolderImages(str(shards.parent / "images"), resolution=8))
    assert torch.equal(images, expected)
    assert labels.tolist() == expected_labels.tolist() == [0, 0, 0, 1, 1]
    assert (source.count, source.num_classes) == (5, 2)


def test_shards_of_pixels_give_back_the_images_they_were_made_from(tmp_path):
    for index in range(3):
        save(tmp_path / "images" / f"{index}.png", picture(index))
    pixels = load_autoencoder("identity")
    encode_images(
        find_images(str(tmp_path / "images")), pixels, tmp_path / "shards", EncodeJob(resolution=8, workers=0)
    )
    images, _ = all_of(ShardImages(LatentShards(tmp_path / "shards"), pixels))
    assert torch.equal(images, all_of(FolderImages(str(tmp_path / "images"), resolution=8))[0])


def test_shards_of_another_autoencoder_are_refused(shards):
    other = Halving(replace(Identity(), id="other", weights_sha256="b" * 64))
    with pytest.raises(UserError, match="made with the autoencoder 'halving'"):
        ShardImages(LatentShards(shards), other)


def test_open_images_tells_the_sources_apart(shards, tmp_path):
    np.savez(tmp_path / "samples.npz", picture(0)[None])
    asked = []

    def load(autoencoder_id):
        asked.append(autoencoder_id)
        return Halving()

    assert isinstance(open_images(str(tmp_path / "samples.npz"), 8, load), NpzImages)
    assert isinstance(open_images(str(tmp_path / "images"), 8, load), FolderImages)
    assert asked == []
    assert isinstance(open_images(str(shards), 8, load), ShardImages)
    assert asked == ["halving"]


def class_folders(folder, classes, per_class):
    for number in range(classes * per_class):
        save(folder / f"{number // per_class:02d}" / f"{number:03d}.png", picture(number))
    return FolderImages(str(folder), resolution=8, batch_size=4)


def test_evenly_spaced_images_are_of_all_classes(tmp_path):
    source = class_folders(tmp_path, classes=5, per_class=6)
    spaced = EvenlySpaced(source, 10)
    images, labels = all_of(spaced)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert torch.equal(images, all_of(source)[0][::3])
    assert (spaced.count, spaced.num_classes) == (10, 5)


@pytest.mark.parametrize("count", [1, 7, 29, 30])
def test_evenly_spaced_images_are_as_many_as_asked_for_and_none_twice(tmp_path, count):
    images, _ = all_of(EvenlySpaced(class_folders(tmp_path, classes=5, per_class=6), count))
    assert len({image.numpy().tobytes() for image in images}) == len(images) == count


def test_more_images_than_there_are_is_an_error_of_the_user(tmp_path):
    with pytest.raises(UserError, match="7 images are asked for, and there are 6"):
        EvenlySpaced(class_folders(tmp_path, classes=2, per_class=3), 7)


def test_the_resolution_is_that_of_the_images(shards, tmp_path):
    save(tmp_path / "wide" / "0.png", picture(0, width=20, height=10))
    np.savez(tmp_path / "samples.npz", picture(0, width=12, height=12)[None])
    assert resolution_of(str(tmp_path / "wide")) == 10
    assert resolution_of(str(tmp_path / "samples.npz")) == 12
    assert resolution_of(str(shards)) == 8


def test_an_unusable_first_image_has_no_resolution(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image at all")
    with pytest.raises(UserError, match=r"'0\.png' is unusable"):
        resolution_of(str(tmp_path))


def test_a_tar_of_webdataset_samples_is_a_source(tmp_path):
    with tarfile.open(tmp_path / "samples.tar", "w") as tar:
        for index in range(3):
            png = io.BytesIO()
            Image.fromarray(picture(index)).save(png, "PNG")
            for name, data in ((f"{index:03d}.png", png.getvalue()), (f"{index:03d}.cls", str(index % 2).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    source = open_images(str(tmp_path / "samples.tar"), 8, None)
    images, labels = all_of(source)
    expected = np.stack([picture(seed) for seed in range(3)]).transpose(0, 3, 1, 2)
    assert torch.equal(images, torch.from_numpy(expected))
    assert labels.tolist() == [0, 1, 0]
    assert resolution_of(str(tmp_path / "samples.tar")) == 8


def test_the_fingerprint_of_shards_is_that_of_their_manifest(shards, tmp_path):
    source = ShardImages(LatentShards(shards), Halving())
    before = source.fingerprint()
    save(tmp_path / "images" / "a" / "0.png", picture(17))
    other = tmp_path / "other"
    encode_images(
        find_images(str(tmp_path / "images")), Halving(), other, EncodeJob(resolution=8, samples_per_shard=3, workers=0)
    )
    assert source.fingerprint() == before != ShardImages(LatentShards(other), Halving()).fingerprint()
