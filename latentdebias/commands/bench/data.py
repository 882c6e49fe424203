"""`latentdebias bench data`: latent shards, plain webdataset, .npy folders and safetensors files, samples/s."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import webdataset
from safetensors import safe_open
from safetensors.numpy import save_file

from latentdebias.backbones import BACKBONES
from latentdebias.backbones.flops import forward_flops
from latentdebias.batches.loader import LatentBatches
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.batches.options import DataOptions
from latentdebias.batches.order import BlockShuffle
from latentdebias.batches.plan import plan_batches
from latentdebias.batches.streaming import StreamingReader
from latentdebias.commands.bench.measuring.table import Table, check_json
from latentdebias.commands.bench.measuring.timing import in_turns
from latentdebias.commands.bench.shards import LATENT_SHAPE, NUM_CLASSES, write_random_shards

SAMPLES_PER_SAFETENSORS = 10_000
BATCH = 256
# What an H200 reaches on dense products in bf16, and the share of it that training aims at.
PRODUCTS, UTILISATION, FASTEST = 790e12, 0.5, "dit_s_patch2"
BATCHES = "batches of indexed"
WEBDATASET, ARRAYS = "webdataset .decode()", "one .npy per sample, shuffled"


def bench_data(options: argparse.Namespace) -> None:
    """Report the samples that each reader reads in a CPU second, from the same random latents (4, 32, 32) in fp16.

    Files are cached, so that reading waits for no disk. Other processes of the machine disturb CPU seconds less than
    seconds by the clock.
    """
    check_json(options.json)
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
            BATCHES: lambda: _read_batches(indexed),
            "batches of streaming": lambda: _read_batches(streaming),
            WEBDATASET: lambda: _read_webdataset(shards),
            ARRAYS: lambda: _read_arrays(arrays),
            "safetensors of 10k, shuffled": lambda: _read_tensors(tensors),
        }
        seen = {name: sum(read()) for name, read in readers.items()}
        for name, count in seen.items():
            assert num - BATCH < count <= num, f"{name} read {count} of {num} samples"
        passes = {name: partial(_read, read) for name, read in readers.items()}
        times = in_turns(passes, options.rounds, torch.device("cpu"))
    rates = {name: [seen[name] / each.cpu for each in values] for name, values in times.items()}
    table = Table("reading in one process, files cached")
    for name, values in rates.items():
        table.add(name, values, "samples/s CPU")
    for other in (WEBDATASET, ARRAYS):
        table.add_ratio(f"indexed, shuffle / {other}", rates["indexed, shuffle"], rates[other])
    intake = options.intake or _intake()
    table.add(
        f"{BATCHES} / intake", [rate / intake for rate in rates[BATCHES]], f"x {intake:,.0f} images/s, one worker"
    )
    if options.intake is None:
        table.notes.append(f"intake: arithmetic, {FASTEST} at {UTILISATION:.0%} of {PRODUCTS / 1e12:.0f} TFLOP/s")
    table.report(options.json)


def _intake() -> float:
    """Images/s that the fastest of the models takes in on one GPU at the utilisation aimed at."""
    flops = forward_flops(BACKBONES.build(FASTEST), LATENT_SHAPE, NUM_CLASSES)
    assert flops is not None, "a DiT's operations can be counted"
    return UTILISATION * PRODUCTS / flops.training()


def _read(read: Callable[[], Iterator[int]]) -> int:
    return sum(read())


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
