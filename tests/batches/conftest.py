import shutil

import pytest
from shard_fixtures import PoolEncoder, write_images

from latentdebias.images.find import find_images
from latentdebias.shards.jobs.encode import EncodeJob, encode_images


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """21 samples of three classes in shards of 5, 5, 5, 5 and 1, mirrored views included; not to be changed."""
    root = tmp_path_factory.mktemp("small_set")
    for seed, name in enumerate(["cat", "dog", "emu"]):
        write_images(root / "images" / name, 7, seed)
    options = {"resolution": 32, "samples_per_shard": 5, "batch_size": 4, "forward_batch": 4, "workers": 0}
    encode_images(find_images(str(root / "images")), PoolEncoder(), root / "shards", EncodeJob(flips=True, **options))
    return root / "shards"


@pytest.fixture
def own_set(small_set, tmp_path):
    """A copy of `small_set`, to be damaged."""
    return shutil.copytree(small_set, tmp_path / "shards")
