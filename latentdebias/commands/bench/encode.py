"""`latentdebias bench encode`: the whole encoding job against the bare autoencoder at the same forward batch."""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from PIL import Image
from tqdm import tqdm

from latentdebias.autoencoders import Autoencoder, load_autoencoder
from latentdebias.devices import open_device
from latentdebias.images.find import find_images
from latentdebias.shards.format import FORWARD_BATCH
from latentdebias.shards.jobs.encode import EncodeJob, encode_images

RANDOM_SD = "random-sd"
SOURCE_SIZE = (500, 375)


def bench_encode(options: argparse.Namespace) -> None:
    """Print images/s of the bare autoencoder, before and after the job, those of the whole job, and their ratio."""
    device = open_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        autoencoder = random_sd(Path(folder, "vae"), device) if options.vae == RANDOM_SD else None
        autoencoder = autoencoder or load_autoencoder(options.vae, device)
        _write_images(Path(folder, "images"), options.num)
        _bare(autoencoder, options.resolution, 1)  # kernels are chosen at the first call
        rates = [_bare(autoencoder, options.resolution, options.num)]
        start = time.perf_counter()
        encode_images(
            find_images(str(Path(folder, "images"))),
            autoencoder,
            Path(folder, "shards"),
            EncodeJob(resolution=options.resolution, workers=options.workers),
        )
        whole = options.num / (time.perf_counter() - start)
        rates.append(_bare(autoencoder, options.resolution, options.num))
    bare = sum(rates) / len(rates)
    print(f"bare autoencoder   {rates[0]:10.2f} and {rates[1]:.2f} images/s")
    print(f"whole job          {whole:10.2f} images/s, {whole / bare:.1%} of it")


def random_sd(folder: Path, device: torch.device) -> Autoencoder:
    """Stable Diffusion's autoencoder with random weights, saved in `folder` and loaded from there."""
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    ).save_pretrained(folder)
    return load_autoencoder(str(folder), device)


def _write_images(folder: Path, num: int) -> None:
    """Write JPEG files of smooth noise, with the size and decoding time of a photograph."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in tqdm(range(num), desc="write", leave=False):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        coarse.resize(SOURCE_SIZE, Image.Resampling.BICUBIC).save(folder / f"{index:06d}.jpg", quality=92)


def _bare(autoencoder: Autoencoder, resolution: int, num: int) -> float:
    """Images/s of the autoencoder alone, over `num` images rounded up to whole batches."""
    images = torch.rand(FORWARD_BATCH, 3, resolution, resolution, device=autoencoder.device) * 2 - 1
    # The encoding job uses this memory format too, because it is faster on a CPU.
    images = images.contiguous(memory_format=torch.channels_last)
    batches = -(-num // FORWARD_BATCH)
    start = time.perf_counter()
    for _ in tqdm(range(batches), desc="bare autoencoder", leave=False):
        autoencoder.encode(images)
    if autoencoder.device.type == "cuda":
        torch.cuda.synchronize(autoencoder.device)
    return batches * FORWARD_BATCH / (time.perf_counter() - start)
