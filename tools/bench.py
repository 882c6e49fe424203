"""Measure rates on this machine: `bench.py data` compares ways of reading latents from local disk, files cached."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import webdataset
from tqdm import tqdm

from latentdebias.data import LatentShards
from latentdebias.data.batches import DataOptions, LatentBatches, plan_batches
from latentdebias.data.encoding import finalize
from latentdebias.data.normalization import LatentNormalization
from latentdebias.data.shards import Plan
from latentdebias.data.writer import ShardWriter
from latentdebias.errors import UserError, run_tool

LATENT_SHAPE = (4, 32, 32)
SAMPLES_PER_SHARD = 4096
BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="latent shards, plain webdataset and .npy folders, samples/s")
    data.add_argument("--num", type=int, default=20_000, help="samples (about 17 KB each, written twice)")
    options = parser.parse_args()
    if options.num < 1:
        raise UserError(f"--num {options.num} is too few. Legal here: 1 or more.")
    bench_data(options.num)


def bench_data(num: int) -> None:
    """Print samples/s of one process for each reader over the same `num` random latents (fp16, 4x32x32)."""
    with tempfile.TemporaryDirectory() as folder:
        shards, arrays = Path(folder, "shards"), Path(folder, "arrays")
        _write_samples(num, shards, arrays)
        readers: dict[str, Callable[[], Iterator[int]]] = {
            "LatentShards, shuffled": lambda: _read_indexed(shards),
            "LatentBatches, noise included": lambda: _read_batches(shards),
            "webdataset .decode()": lambda: _read_webdataset(shards),
            "one .npy per sample, shuffled": lambda: _read_arrays(arrays),
        }
        for name, read in readers.items():
            sum(read())
            start = time.perf_counter()
            seen = sum(tqdm(read(), desc=name, leave=False))
            rate = seen / (time.perf_counter() - start)
            assert seen == num
            print(f"{name:32s}{rate:12,.0f} samples/s")


def _write_samples(num: int, shards: Path, arrays: Path) -> None:
    channels, height, width = LATENT_SHAPE
    plan = Plan(
        autoencoder={"id": "random"},
        precision="float32",
        resolution=8 * height,
        preprocessing="none",
        latent_shape=LATENT_SHAPE,
        flips=False,
        samples_per_shard=SAMPLES_PER_SHARD,
        num_inputs=num,
        inputs_sha256="",
        num_classes=1000,
        class_names=[],
    )
    shards.mkdir()
    arrays.mkdir()
    rng = np.random.default_rng(0)
    for shard in tqdm(range(plan.num_shards), desc="write", unit="shard", leave=False):
        with ShardWriter(shards, plan, shard) as writer:
            for index in plan.inputs_of(shard):
                moments = rng.standard_normal((2 * channels, height, width), np.float32).astype(np.float16)
                writer.add(index, moments, None, index % 1000, str(index), (256, 256))
                np.save(arrays / f"{index}.npy", moments)
            writer.commit()
    finalize(shards, plan)


def _read_indexed(directory: Path) -> Iterator[int]:
    shards = LatentShards(directory)
    order = np.random.default_rng(0).permutation(len(shards))
    for start in range(0, len(order), BATCH):
        indices = order[start : start + BATCH]
        moments, _ = shards.read(indices, np.zeros(len(indices), bool))
        yield len(moments)


def _read_batches(directory: Path) -> Iterator[int]:
    shards, plan = LatentShards(directory), plan_batches(0, BATCH, None, 0, 1)
    normalization = LatentNormalization((0.0,) * LATENT_SHAPE[0], (1.0,) * LATENT_SHAPE[0])
    batches = LatentBatches(shards, plan, DataOptions(shards=str(directory)), normalization)
    for step in range(-(-len(shards) // BATCH)):
        yield min(len(batches[step].latents), len(shards) - step * BATCH)


def _read_webdataset(directory: Path) -> Iterator[int]:
    paths = [str(path) for path in sorted(directory.glob("*.tar"))]
    for sample in webdataset.WebDataset(paths, shardshuffle=False).decode():
        yield len(sample["latent.npy"]) > 0


def _read_arrays(directory: Path) -> Iterator[int]:
    paths = sorted(directory.iterdir())
    for number in np.random.default_rng(0).permutation(len(paths)):
        yield len(np.load(paths[number])) > 0


if __name__ == "__main__":
    run_tool(main)
