"""Images on disk, and an encoder made of pooling that is quick and exact enough to compute by hand."""

import io
import tarfile
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from latentdebias.images.find import find_images
from latentdebias.shards.jobs.encode import EncodeJob, encode_images


@dataclass(frozen=True)
class PoolIdentity:
    id: str = "pool"
    channels: int = 4
    factor: int = 8


class PoolEncoder:
    """Latent mean: red, green, blue and grey averages of 8x8 pixels; log-variance: their negative absolute value."""

    def __init__(self, name="pool"):
        self.identity = PoolIdentity(name)
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.posterior, self.stored_dtype = "gaussian", "float16"
        self.batch_sizes = []

    def encode(self, images):
        self.batch_sizes.append(len(images))
        pooled = torch.nn.functional.avg_pool2d(images, 8)
        mean = torch.cat([pooled, pooled.mean(1, keepdim=True)], dim=1)
        return torch.cat([mean, -mean.abs()], dim=1)


@pytest.fixture
def encoder():
    return PoolEncoder()


@pytest.fixture
def make_encoder():
    """The class of `encoder`, to build others or to break it."""
    return PoolEncoder


def write_images(folder, count, seed=0):
    """`count` noise images of various sizes, named 00.png, 01.png, ..."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        width, height = rng.integers(30, 90, 2)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")


@pytest.fixture
def image_dir(tmp_path):
    """21 images in the class folders cat, dog and emu."""
    for seed, name in enumerate(["cat", "dog", "emu"]):
        write_images(tmp_path / "images" / name, 7, seed)
    return tmp_path / "images"


@pytest.fixture
def encode(image_dir, encoder, tmp_path):
    """Encode `image_dir` into a folder below `tmp_path`: five shards of up to 5 samples."""

    def run(out="shards", encoder=encoder, rank=0, world_size=1, **changes):
        options = {
            "resolution": 32,
            "samples_per_shard": 5,
            "batch_size": 4,
            "forward_batch": 4,
            "workers": 0,
            "flips": True,
        }
        directory = tmp_path / out
        job = EncodeJob(**{**options, **changes})
        encode_images(find_images(str(image_dir)), encoder, directory, job, rank=rank, world_size=world_size)
        return directory

    return run


@pytest.fixture
def contents():
    """File name -> bytes of everything in a folder."""
    return lambda directory: {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def tars(image_dir, tmp_path):
    """The 21 images with their labels in 0.tar, 1.tar and 2.tar, a class each."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for label, name in enumerate(["cat", "dog", "emu"]):
        members = [
            member
            for path in sorted((image_dir / name).iterdir())
            for member in [(path.name, path.read_bytes()), (f"{path.stem}.cls", str(label).encode())]
        ]
        write_tar(folder / f"{label}.tar", members)
    return folder


@pytest.fixture
def encode_source(encoder, tmp_path):
    def run(images, out, workers=0):
        options = {"resolution": 32, "samples_per_shard": 5, "batch_size": 4, "forward_batch": 4, "workers": workers}
        encode_images(images, encoder, tmp_path / out, EncodeJob(**options))
        return tmp_path / out

    return run
