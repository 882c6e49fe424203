"""Shard sets of version 0.1: today's code reads and verifies them, and makes the same ones of the same images."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from latentdebias.autoencoders import load_autoencoder
from latentdebias.images.find import find_images
from latentdebias.shards.format import Manifest, read_manifest, read_plan
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.jobs.verify import verify
from latentdebias.shards.reader import LatentShards

OLD = Path(__file__).parent
PER_CLASS = 3
CLASSES = 10
MEASURED = ("latent_mean", "latent_std")


@pytest.fixture(scope="module")
def images(digit_images, tmp_path_factory):
    """The first three images of each digit, the inputs of both old sets."""
    few = tmp_path_factory.mktemp("few")
    for path in sorted(digit_images.glob("*/000[0-2].png")):
        (few / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, few / path.parent.name)
    return find_images(str(few))


def facts(manifest: Manifest) -> dict[str, object]:
    """All that the manifest says but for the statistics, whose last bits are the machine's."""
    return {name: value for name, value in dataclasses.asdict(manifest).items() if name not in MEASURED}


def test_the_old_set_is_whole_and_is_read():
    manifest = verify(OLD / "shards")
    shards = LatentShards(OLD / "shards")
    assert len(shards) == manifest.count == PER_CLASS * CLASSES
    for flipped in (False, True):
        moments, labels = shards.read(np.arange(len(shards)), np.full(len(shards), flipped))
        assert moments.shape == (30, 8, 4, 4)
        assert np.isfinite(moments).all()
        assert labels.tolist() == np.repeat(np.arange(CLASSES), PER_CLASS).tolist()


def test_pixels_are_encoded_to_the_same_bytes(images, tmp_path):
    manifest = encode_images(
        images, load_autoencoder("identity"), tmp_path, EncodeJob(resolution=32, samples_per_shard=16, workers=0)
    )
    old = read_manifest(OLD / "pixels")
    assert [shard.sha256 for shard in manifest.shards] == [shard.sha256 for shard in old.shards]
    assert facts(manifest) == facts(old)
    assert read_plan(tmp_path) == read_plan(OLD / "pixels")
    assert manifest.latent_mean == pytest.approx(old.latent_mean)
    assert manifest.latent_std == pytest.approx(old.latent_std)


def test_digits_are_encoded_to_the_same_latents(images, tmp_path):
    """Within the rounding of fp16: the autoencoder's last bits differ between CPUs."""
    encode_images(
        images,
        load_autoencoder("digits"),
        tmp_path,
        EncodeJob(resolution=32, flips=True, samples_per_shard=16, workers=0),
    )
    assert read_plan(tmp_path) == read_plan(OLD / "shards")
    new, old = LatentShards(tmp_path), LatentShards(OLD / "shards")
    assert len(new) == len(old)
    everything = np.arange(len(old))
    for flipped in (False, True):
        one, labels = new.read(everything, np.full(len(old), flipped))
        other, old_labels = old.read(everything, np.full(len(old), flipped))
        np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), rtol=2e-3, atol=2e-3)
        assert np.array_equal(labels, old_labels)
    for name in ("shard-000000.index.npy", "shard-000001.index.npy"):
        assert (tmp_path / name).read_bytes() == (OLD / "shards" / name).read_bytes()
