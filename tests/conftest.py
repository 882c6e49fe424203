"""What every test shares: no network, one build folder for DeepSpeed's extensions, and a tiny autoencoder."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(tempfile.gettempdir(), "latentdebias-torch-extensions")))

import pytest
import torch
from diffusers import AutoencoderKL

from latentdebias.autoencoders import load_autoencoder
from latentdebias.config import load_config
from latentdebias.digits import write_images
from latentdebias.images.find import find_images
from latentdebias.prepare import prepare
from latentdebias.run import Run
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.training.engine import start_distributed, stop_distributed

pytest_plugins = ["shard_fixtures", "model_fixtures", "browsing"]


@pytest.fixture(scope="session")
def tiny_vae_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local folder with a randomly initialised AutoencoderKL: 4 latent channels, 8 pixels per latent."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.5,
    )
    folder = tmp_path_factory.mktemp("tiny_vae")
    vae.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def digit_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The handwritten digits as PNGs in class folders."""
    root = tmp_path_factory.mktemp("digits")
    write_images(root / "images")
    return root / "images"


@pytest.fixture(scope="session")
def digit_shards(digit_images: Path) -> Path:
    """The handwritten digits as latent shards, encoded with the packaged autoencoder, mirrored views included."""
    directory = digit_images.with_name("shards")
    encode_images(
        find_images(str(digit_images)),
        load_autoencoder("digits"),
        directory,
        EncodeJob(resolution=32, flips=True, samples_per_shard=512, batch_size=64, workers=0),
    )
    return directory


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A test that changes the number of threads changes it for itself alone."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that failed is made again at once."""
    monkeypatch.setattr("latentdebias.remote.WAITS", (0.01, 0.02, 0.04))


@pytest.fixture(autouse=True, scope="session")
def statistics_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """References' statistics are kept for this session alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTDEBIAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def process_group() -> Iterator[None]:
    """One process group of one rank, for everything that trains in this process."""
    start_distributed()
    yield
    stop_distributed()


@pytest.fixture
def small_run(digit_shards: Path, tmp_path: Path) -> list[str]:
    """Overrides of configs/digits_debias.yaml that make a run of seconds in `tmp_path`/run."""
    changes = {
        "run_dir": tmp_path / "run",
        "data.shards": digit_shards,
        "model.width": 32,
        "model.depth": 2,
        "model.heads": 2,
        "training.batch_size": 8,
        "training.steps": 4,
        "training.log_every": 1,
        "training.checkpoint_every": 2,
        "training.sample_every": 0,
        "deepspeed.zero_optimization.stage": 1,
    }
    return [f"{key}={value}" for key, value in changes.items()]


@pytest.fixture
def make_run(small_run: list[str], process_group: None) -> Callable[..., Run]:
    """A function that builds a run of seconds, with further overrides in the form of --set."""

    def make(*overrides: str) -> Run:
        return Run(prepare(load_config("digits_debias.yaml", [*small_run, *overrides])))

    return make
