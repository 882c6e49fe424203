"""`latentdebias bench data`: latent shards, plain webdataset, .npy folders and safetensors files, samples/s."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import webdataset
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from latentdebias.batches.loader import LatentBatches
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.batches.options import DataOptions
from latentdebias.batches.order import BlockShuffle
from latentdebias.batches.plan import plan_batches
from latentdebias.batches.streaming import StreamingReader
from latentdebias.commands.bench.shards import LATENT_SHAPE, write_random_shards
from latentdebias.commands.terminal import table

SAMPLES_PER_SAFETENSORS = 10_000
BATCH = 256
WEBDATASET, ARRAYS = "webdataset .decode()", "one .npy per sample, shuffled"


def bench_data(options: argparse.Namespace) -> None:
    """Print how many samples each reader reads in a CPU second, from the same random latents (4, 32, 32) in fp16."""
    num = options.num
    with tempfile.TemporaryDirectory() as folder:
        shards, arrays, tensors = Path(folder, "shards"), Path(folder, "arrays"), Path(folder, "tensors")
        _write_samples(num, shards, arrays, tensors)
        indexed = DataOptions(shards=str(shards))
        blocks, streaming = replace(indexed, order=BlockShuffle()), replace(indexed, reader=StreamingReader())
        readers: dict[str, Callable[[], Iterator[int]]] = {
            "indexed, shuffle": lambda: _read_samples(indexed),
            "indexed, blocks": lambda: _read_samples(blocks),
            "streaming": lambda: _read_samples(streaming),
            "batches of indexed": lambda: _read_batches(indexed),
            "batches of streaming": lambda: _read_batches(streaming),
            WEBDATASET: lambda: _read_webdataset(shards),
            ARRAYS: lambda: _read_arrays(arrays),
            "safetensors of 10k, shuffled": lambda: _read_tensors(tensors),
        }
        rates = {name: _rate(name, read, num) for name, read in readers.items()}
    rows = [["one process, files cached", "samples/s CPU", "x webdataset", "x .npy"]]
    for name, rate in rates.items():
        rows.append([name, f"{rate:,.0f}", f"{rate / rates[WEBDATASET]:.1f}", f"{rate / rates[ARRAYS]:.1f}"])
    print(table(rows))


def _rate(name: str, read: Callable[[], Iterator[int]], num: int) -> float:
    """Samples read in a CPU second, in the second of two passes; a pass may leave out less than one batch.

    After the first pass the files are cached, so that reading waits for no disk. Other processes of the machine disturb
    CPU seconds less than seconds by the clock.
    """
    sum(read())
    start = time.process_time()
    seen = sum(tqdm(read(), desc=name, leave=False))
    rate = seen / (time.process_time() - start)
    assert num - BATCH < seen <= num, f"{name} read {seen} of {num} samples"
    return rate


def _write_samples(num: int, shards: Path, arrays: Path, tensors: Path) -> None:
    arrays.mkdir()
    for index, moments in write_random_shards(shards, num):
        np.save(arrays / f"{index}.npy", moments)
    _write_tensors(tensors, arrays, num)


def _write_tensors(directory: Path, arrays: Path, num: int) -> None:
    directory.mkdir()
    for start in range(0, num, SAMPLES_PER_SAFETENSORS):
        numbers = range(start, min(start + SAMPLES_PER_SAFETENSORS, num))
        latents = np.stack([np.load(arrays / f"{number}.npy") for number in numbers])
        labels = np.array([number % 1000 for number in numbers])
        save_file({"latents": latents, "labels": labels}, directory / f"{start:09d}.safetensors")


def _read_samples(data: DataOptions) -> Iterator[int]:
    """Read stored values and labels as they are in the shards; yields the number of samples at a time."""
    shards, plan = data.reader.open(data), plan_batches(0, BATCH, None, 0, 1)
    for views in shards.samples(plan, range(shards.manifest.count // BATCH)):
        yield len(views(np.zeros(BATCH, bool))[0])


def _read_batches(data: DataOptions) -> Iterator[int]:
    """Read whole training batches, for which 8,192 normal numbers are drawn for each sample; yields their sizes."""
    shards, plan = data.reader.open(data), plan_batches(0, BATCH, None, 0, 1)
    normalization = LatentNormalization((0.0,) * LATENT_SHAPE[0], (1.0,) * LATENT_SHAPE[0])
    for batch in LatentBatches(shards, plan, data, normalization).of(range(shards.manifest.count // BATCH)):
        yield len(batch.latents)


def _read_webdataset(directory: Path) -> Iterator[int]:
    paths = [str(path) for path in sorted(directory.glob("*.tar"))]
    for sample in webdataset.WebDataset(paths, shardshuffle=False).decode():
        yield len(sample["latent.npy"]) > 0


def _read_arrays(directory: Path) -> Iterator[int]:
    paths = sorted(directory.iterdir())
    for number in np.random.default_rng(0).permutation(len(paths)):
        yield len(np.load(paths[number])) > 0


def _read_tensors(directory: Path) -> Iterator[int]:
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, "np")) for path in sorted(directory.iterdir())]
        latents = [file.get_slice("latents") for file in files]
        labels = [file.get_tensor("labels") for file in files]
        for number in np.random.default_rng(0).permutation(sum(map(len, labels))).tolist():
            file, row = divmod(number, SAMPLES_PER_SAFETENSORS)
            yield len(latents[file][row : row + 1]) * (labels[file][row] >= 0)
