"""Encoding on a GPU: the same bytes again, whatever the decoding batch, in every precision."""

import numpy as np
import pytest
import torch
from PIL import Image

from latentdebias.autoencoders import load_autoencoder
from latentdebias.commands.encode import DTYPES
from latentdebias.devices import open_device
from latentdebias.images.find import find_images
from latentdebias.shards.jobs import encode
from latentdebias.shards.jobs.decoded_batches import decoded_batches
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.reader import LatentShards


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(21):
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(tmp_path / "images" / f"{number:02d}.png")
    return find_images(str(tmp_path / "images"))


@pytest.mark.parametrize("precision", DTYPES)
def test_the_same_images_give_the_same_bytes(device, images, tiny_vae_dir, tmp_path, precision):
    open_device(str(device))
    made = []
    for name, batch_size in (("first", 8), ("again", 8), ("other batch", 3)):
        options = {"resolution": 32, "precision": precision, "flips": True, "forward_batch": 4, "workers": 0}
        autoencoder = load_autoencoder(str(tiny_vae_dir), device, DTYPES[precision])
        encode_images(images, autoencoder, tmp_path / name, EncodeJob(**options, batch_size=batch_size))
        made.append({path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())})
    assert made[0] == made[1]
    assert made[0] == made[2]


def test_starting_a_batch_does_not_wait(device, no_waiting, images, tiny_vae_dir):
    autoencoder, job = load_autoencoder(str(tiny_vae_dir), device), EncodeJob(resolution=32, flips=True, workers=0)
    plan = encode._plan(images, autoencoder, job)
    first, again = decoded_batches(images.images, plan, [0], 16, 0)
    outputs = encode._start_encoding(first, autoencoder, plan).arrays()
    with no_waiting():
        started = encode._start_encoding(again, autoencoder, plan)
        started_again = encode._start_encoding(first, autoencoder, plan)
    assert all(np.isfinite(view).all() for view in started.arrays())
    assert all(np.array_equal(*views) for views in zip(outputs, started_again.arrays(), strict=True))


@pytest.mark.parametrize("precision", DTYPES)
def test_latents_are_those_of_the_cpu(device, images, tiny_vae_dir, tmp_path, precision):
    open_device(str(device))
    stored = []
    for place, dtype in ((device, DTYPES[precision]), (torch.device("cpu"), torch.float32)):
        autoencoder = load_autoencoder(str(tiny_vae_dir), place, dtype)
        job = EncodeJob(resolution=32, precision=precision, forward_batch=4, workers=0)
        encode_images(images, autoencoder, tmp_path / f"{place.type} {dtype}", job)
        shards = LatentShards(tmp_path / f"{place.type} {dtype}")
        stored.append(shards.read(np.arange(21), flipped=np.zeros(21, bool))[0].astype(np.float32))
    tolerance = {"fp32": 2e-3, "tf32": 2e-2, "bf16": 0.1}[precision]
    np.testing.assert_allclose(stored[0], stored[1], rtol=tolerance, atol=tolerance * np.abs(stored[1]).max())
