import numpy as np
import pytest
import torch
from PIL import Image

from latentdebias.autoencoders import PixelAutoencoder, load_autoencoder
from latentdebias.errors import UserError
from latentdebias.evaluation import inspection
from latentdebias.evaluation.extractors import EXTRACTORS
from latentdebias.evaluation.inspection import (
    SourceImages,
    contact_sheet,
    find_sources,
    reconstruct,
    reconstruction_fid,
    reconstruction_scores,
)
from latentdebias.images.find import find_images
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.jobs.inspect import class_histogram, source_names
from latentdebias.shards.reader import LatentShards


@pytest.fixture(scope="module")
def digits(digit_shards):
    """The digits' shards, the folder of their images, and their autoencoder."""
    return LatentShards(digit_shards), str(digit_shards.parent / "images"), load_autoencoder("digits")


def test_sources_are_those_that_were_encoded(digits):
    shards, path, _ = digits
    indices = np.array([0, 3, 600, len(shards) - 1])
    images = find_images(path).images
    assert list(source_names(shards, indices)) == [images[index].name for index in indices]
    for source, index in zip(find_sources(shards, indices, path), indices, strict=True):
        expected = np.asarray(Image.open(images[index].path).convert("RGB"))
        assert np.array_equal(source.permute(1, 2, 0), expected)


def test_reconstructions_are_closer_to_their_own_source_than_to_others(digits):
    shards, path, autoencoder = digits
    indices = np.arange(0, len(shards), len(shards) // 8)[:8]
    sources = torch.stack(find_sources(shards, indices, path))
    images = reconstruct(shards, autoencoder, indices)
    assert images.shape == sources.shape
    own, others = reconstruction_scores(sources, images), reconstruction_scores(sources, images.roll(1, 0))
    assert own["psnr"] > others["psnr"] + 5
    assert own["ssim"] > others["ssim"] + 0.2


def test_pixels_stored_as_they_are_come_back_exactly(digits, tmp_path):
    _, path, _ = digits
    (tmp_path / "images").mkdir()
    for number, image in enumerate(find_images(path).images[:3]):
        Image.open(image.path).save(tmp_path / "images" / f"{number}.png")
    images = find_images(str(tmp_path / "images"))
    encode_images(images, PixelAutoencoder(), tmp_path / "shards", EncodeJob(resolution=32, workers=0))
    shards = LatentShards(tmp_path / "shards")
    sources = find_sources(shards, np.arange(3), str(tmp_path / "images"))
    assert torch.equal(reconstruct(shards, PixelAutoencoder(), np.arange(3)), torch.stack(sources))


def test_psnr_is_the_mean_over_the_pairs():
    sources = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    images = sources.clone()
    images[0] += 1
    images[1] += 10
    expected = np.mean([20 * np.log10(255 / 1), 20 * np.log10(255 / 10)])
    assert reconstruction_scores(sources, images)["psnr"] == pytest.approx(expected, abs=1e-3)


def test_without_weights_lpips_is_none_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "alexnet_weights", lambda: tmp_path / "alexnet.pth")
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert reconstruction_scores(images, images)["lpips"] is None


def test_a_source_that_is_gone_is_none_and_its_place_white(digits, tmp_path):
    shards, path, autoencoder = digits
    first, second = list(source_names(shards, np.array([0, 1])))
    (tmp_path / "images" / first).parent.mkdir(parents=True)
    pixels = Image.open(f"{path}/{first}")
    pixels.save(tmp_path / "images" / first)
    sources = find_sources(shards, np.array([0, 1]), str(tmp_path / "images"))
    assert sources[0] is not None
    assert sources[1] is None
    images = reconstruct(shards, autoencoder, np.array([0, 1]))
    contact_sheet(sources, images, tmp_path / "pairs.png")
    contact_sheet([None, None], images, tmp_path / "alone.png")
    pairs, alone = (np.asarray(Image.open(tmp_path / name)) for name in ("pairs.png", "alone.png"))
    assert pairs.shape[1] == 2 * alone.shape[1] - 2
    side = (alone.shape[1] - 6) // 2
    tiles = [pairs[2 : 2 + side, 2 + k * (side + 2) :][:, :side] for k in range(4)]
    enlarged = np.asarray(pixels.convert("RGB")).repeat(side // 32, 0).repeat(side // 32, 1)
    assert np.array_equal(tiles[0], enlarged)
    assert (tiles[2] == 255).all()
    assert not (tiles[3] == 255).all()
    with pytest.raises(UserError, match=f"'{second}', an input of"):
        list(SourceImages(shards, str(tmp_path / "images")))


@pytest.fixture(scope="module")
def few(tmp_path_factory, digits):
    """A small set of 40 digits, its images, and their autoencoder."""
    _, path, autoencoder = digits
    root = tmp_path_factory.mktemp("few")
    (root / "images").mkdir()
    for number, image in enumerate(find_images(path).images[::45][:40]):
        Image.open(image.path).save(root / "images" / f"{number:02d}.png")
    encode_images(find_images(str(root / "images")), autoencoder, root / "shards", EncodeJob(resolution=32, workers=0))
    return LatentShards(root / "shards"), root / "images", autoencoder


def test_rfid_grows_with_what_the_inputs_have_lost(few, tmp_path):
    shards, images, autoencoder = few
    extractor = EXTRACTORS.build("digits").load()
    score = reconstruction_fid(shards, autoencoder, str(images), extractor)
    for path in images.iterdir():
        pixels = np.asarray(Image.open(path))
        Image.fromarray(255 - pixels).save(tmp_path / path.name)
    assert 0 <= score < reconstruction_fid(shards, autoencoder, str(tmp_path), extractor) / 2


def test_the_histogram_counts_every_label(digits):
    shards, path, _ = digits
    histogram = class_histogram(shards)
    labels = [image.label for image in find_images(path).images]
    assert histogram.counts.tolist() == np.bincount(labels).tolist()
    rarest = histogram.rarest()
    assert [count for _, count in rarest] == sorted(histogram.counts.tolist())[:3]
    assert histogram.counts[histogram.names.index(rarest[0][0])] == rarest[0][1]


def test_a_set_without_labels_has_no_histogram(few):
    assert class_histogram(few[0]) is None


def test_an_input_that_has_gone_bad_is_named(few, tmp_path):
    shards, _, _ = few
    (tmp_path / "00.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"'00\.png' is unusable .* It was encoded"):
        find_sources(shards, np.array([0]), str(tmp_path))
