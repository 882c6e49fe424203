"""What the format says of a set agrees with the tars that are written."""

import numpy as np
import pytest

from latentdebias.autoencoders import load_autoencoder
from latentdebias.images.find import find_images
from latentdebias.shards.format import bytes_per_sample
from latentdebias.shards.index_file import read_index
from latentdebias.shards.jobs.encode import EncodeJob, encode_images


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("pixels", [False, True], ids=["gaussian", "uint8"])
def test_the_bytes_of_a_sample_are_those_in_the_tar(image_dir, encoder, tmp_path, flips, classes, pixels):
    images = find_images(str(image_dir if classes else image_dir / "cat"))
    autoencoder = load_autoencoder("identity") if pixels else encoder
    manifest = encode_images(images, autoencoder, tmp_path / "set", EncodeJob(resolution=32, flips=flips, workers=0))
    [shard] = manifest.shards
    index = read_index(tmp_path / "set", shard, manifest)
    assert set(np.diff(index["latent"])) == {manifest.bytes_per_sample}
    # A tar ends with two blocks of zeros and is filled up to a multiple of 20 blocks.
    assert 0 <= shard.size - shard.count * manifest.bytes_per_sample - 1024 < 20 * 512


def test_known_sizes():
    """256-pixel images: as pixels, and as Stable Diffusion's latents with mirror images."""
    assert bytes_per_sample((3, 256, 256), "deterministic", "uint8", 1, 1000) == 199_680
    assert bytes_per_sample((4, 32, 32), "gaussian", "float16", 1, 1000) == 19_456
    assert bytes_per_sample((4, 32, 32), "gaussian", "float16", 2, 1000) == 36_864
