"""`latentdebias bench encode`: the whole encoding job against the bare autoencoder at the same forward batch."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from PIL import Image
from tqdm import tqdm

from latentdebias.autoencoders import Autoencoder, load_autoencoder
from latentdebias.commands.bench.measuring.table import Table, check_json
from latentdebias.commands.bench.measuring.timing import in_turns
from latentdebias.devices import open_device
from latentdebias.images.find import find_images
from latentdebias.shards.format import FORWARD_BATCH
from latentdebias.shards.jobs.encode import EncodeJob, encode_images

RANDOM_SD = "random-sd"
SOURCE_SIZE = (500, 375)


def bench_encode(options: argparse.Namespace) -> None:
    """Report images/s of the bare autoencoder and of the whole job, decoding and writing included, in turns."""
    check_json(options.json)
    device = open_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        autoencoder = random_sd(Path(folder, "vae"), device) if options.vae == RANDOM_SD else None
        autoencoder = autoencoder or load_autoencoder(options.vae, device)
        source = options.images
        if source is None:
            source = str(Path(folder, "images"))
            _write_images(Path(source), options.num)
        images, job = find_images(source), EncodeJob(resolution=options.resolution, workers=options.workers)
        count = len(images.images)
        rounds = iter(range(options.rounds))
        _bare(autoencoder, options.resolution, 1)  # kernels are chosen at the first call
        times = in_turns(
            {
                "bare": lambda: _bare(autoencoder, options.resolution, count),
                "job": lambda: encode_images(images, autoencoder, Path(folder, f"shards{next(rounds)}"), job),
            },
            options.rounds,
            device,
        )
    rates = {
        "bare": [_rounded_up(count) / each.wall for each in times["bare"]],
        "job": [count / each.wall for each in times["job"]],
    }
    table = Table(
        f"{options.vae}, {count} images of {options.images or 'smooth noise'} at {options.resolution}, {device}"
    )
    for name, values in rates.items():
        table.add(name, values, "images/s")
    table.add_ratio("job / bare", rates["job"], rates["bare"])
    table.report(options.json)


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


def _rounded_up(num: int) -> int:
    """`num` images rounded up to whole batches."""
    return -(-num // FORWARD_BATCH) * FORWARD_BATCH


def _bare(autoencoder: Autoencoder, resolution: int, num: int) -> None:
    """Encode random images by the autoencoder alone, `num` of them rounded up to whole batches."""
    images = torch.rand(FORWARD_BATCH, 3, resolution, resolution, device=autoencoder.device) * 2 - 1
    # The encoding job uses this memory format too, because it is faster on a CPU.
    images = images.contiguous(memory_format=torch.channels_last)
    for _ in tqdm(range(_rounded_up(num) // FORWARD_BATCH), desc="bare autoencoder", leave=False):
        autoencoder.encode(images)
