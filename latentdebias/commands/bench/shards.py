"""Shards of random numbers, of Stable Diffusion's latent shape at 256x256 images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentdebias.shards.format import Plan
from latentdebias.shards.jobs.encode import finalize
from latentdebias.shards.writer import ShardWriter

LATENT_SHAPE = (4, 32, 32)
NUM_CLASSES = 1000
SAMPLES_PER_SHARD = 4096


def write_random_shards(
    directory: Path, num: int, latent_shape: tuple[int, int, int] = LATENT_SHAPE
) -> Iterator[tuple[int, np.ndarray]]:
    """Write `num` samples of latents (C, H, W), and yield the number and the moments (2C, H, W), fp16, of each.

    The set is complete once the iterator is exhausted.
    """
    channels, height, width = latent_shape
    plan = Plan(
        autoencoder={"id": "random"},
        precision="float32",
        resolution=8 * height,
        preprocessing="none",
        latent_shape=latent_shape,
        flips=False,
        samples_per_shard=SAMPLES_PER_SHARD,
        num_inputs=num,
        inputs_sha256="",
        num_classes=NUM_CLASSES,
        class_names=[],
    )
    directory.mkdir()
    rng = np.random.default_rng(0)
    for shard in tqdm(range(plan.num_shards), desc="write", unit="shard", leave=False):
        with ShardWriter(directory, plan, shard) as writer:
            for index in plan.inputs_of(shard):
                moments = rng.standard_normal((2 * channels, height, width), np.float32).astype(np.float16)
                writer.add(index, moments, None, index % NUM_CLASSES, str(index), (256, 256))
                yield index, moments
            writer.commit()
    finalize(directory, plan)
