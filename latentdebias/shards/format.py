"""The format of a latent shard set: file names, the per-shard index and summary, the plan and the manifest.

A shard is `shard-000000.tar` (WebDataset), `shard-000000.index.npy` and `shard-000000.json`, published in that order,
so a shard whose summary exists is complete. `plan.json` is written before the first shard, `manifest.json` last.
"""

import dataclasses
import io
import json
import math
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field

from latentdebias.autoencoders import AutoencoderIdentity, Posterior, StoredDtype
from latentdebias.errors import UserError, command
from latentdebias.files import publish, read_json
from latentdebias.registry import validate
from latentdebias.shards.statistics import LatentSums

FORMAT_VERSION = 1
FORWARD_BATCH = 16
"""Images in one call of the autoencoder, unless the plan says otherwise.

The number is fixed for a set, because kernels differ in the last bit between batch sizes.
"""
PLAN = "plan.json"
MANIFEST = "manifest.json"
ARRAYS_PER_LATENT = {"gaussian": 2, "deterministic": 1}
"""A Gaussian posterior is stored as its mean and its log-variance, a deterministic latent as itself."""
STORED_DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "uint8": np.dtype("u1")}
INDEX_DTYPE = np.dtype([("latent", "<i8"), ("flip", "<i8"), ("label", "<i8")])
"""One row of a shard's index, for one sample.

`latent` and `flip` are the bytes in the tar at which the numbers of the image and of its mirror image begin (-1: no
mirror image is stored); `label` is the class index (-1: none).
"""
NPY_HEADER = 128
"""Bytes of a `.npy` header before the numbers: numpy pads it to a multiple of 64, and three axes need more than 64."""

T = TypeVar("T", bound="Plan | ShardSummary")
Count = Annotated[int, Field(ge=0, lt=2**48)]
Side = Annotated[int, Field(gt=0, le=2**16)]
"""A channel count or a side of a latent or image: what is larger in a file is a mistake, and is never allocated."""
NumClasses = Annotated[int, Field(ge=0, le=2**24)]


@dataclass(frozen=True)
class Rejection:
    """An input that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ShardSummary:
    """What one finished shard holds: samples, bytes, the tar's sha256, latent sums and rejected inputs."""

    name: str
    count: int
    size: int
    sha256: str
    sums: LatentSums
    rejected: list[Rejection]


@dataclass(frozen=True)
class ShardRecord:
    """A shard as the manifest lists it: its name, number of samples, and the tar's size in bytes and sha256."""

    name: str
    count: Count
    size: Count
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the bytes of a shard set.

    `autoencoder` holds the fields of its `AutoencoderIdentity`, and `precision` is that of its forward pass: float32,
    in full precision, tf32 or bfloat16;
    `dtype` is that of the stored values. `latent_shape` is `(C, h, w)`, and `resolution` the images' side in pixels.
    `inputs_sha256` tells the inputs, and their order, from any others.
    """

    format_version: int = FORMAT_VERSION
    autoencoder: dict[str, Any]
    precision: str
    forward_batch: int = FORWARD_BATCH
    resolution: Side
    preprocessing: str
    latent_shape: tuple[Side, Side, Side]
    posterior: Posterior = "gaussian"
    dtype: StoredDtype = "float16"
    flips: bool
    samples_per_shard: Annotated[int, Field(gt=0, lt=2**48)]
    num_inputs: Count
    inputs_sha256: str
    num_classes: NumClasses
    class_names: list[str]

    @property
    def identity(self) -> AutoencoderIdentity:
        """What tells the autoencoder of the set from another; `UserError` where `autoencoder` is no such record."""
        return validate(AutoencoderIdentity, self.autoencoder, "`autoencoder` of the shards")

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """The shape of the array stored for one view of a sample: see the function `stored_shape`."""
        return stored_shape(self.latent_shape, self.posterior)

    @property
    def bytes_per_sample(self) -> int:
        """Bytes that one sample takes in a tar of this set: see the function `bytes_per_sample`."""
        views = 2 if self.flips else 1
        return bytes_per_sample(self.latent_shape, self.posterior, self.dtype, views, self.num_classes)

    @property
    def stored_dtype(self) -> np.dtype:
        return STORED_DTYPES[self.dtype]

    @property
    def num_shards(self) -> int:
        return -(-self.num_inputs // self.samples_per_shard)

    def inputs_of(self, shard: int) -> range:
        """The numbers of the inputs that shard number `shard` is made from."""
        start = shard * self.samples_per_shard
        return range(start, min(start + self.samples_per_shard, self.num_inputs))

    def count_inputs(self, shards: Iterable[int]) -> int:
        return sum(len(self.inputs_of(shard)) for shard in shards)


@dataclass(frozen=True, kw_only=True)
class Manifest(Plan):
    """The record of a finished set: its plan, number of samples, shards and rejected inputs.

    `latent_mean` and `latent_std` are the statistics `(C,)` of the unscaled latents, one value a channel.
    """

    count: Count
    latent_mean: list[float]
    latent_std: list[float]
    shards: list[ShardRecord]
    rejected: list[Rejection]


def stored_shape(latent_shape: tuple[int, int, int], posterior: Posterior) -> tuple[int, int, int]:
    """The shape of the array stored for one view of a latent `(C, h, w)`.

    `(2C, h, w)` for a Gaussian posterior, mean then log-variance; `(C, h, w)` for a deterministic latent.
    """
    channels, height, width = latent_shape
    return ARRAYS_PER_LATENT[posterior] * channels, height, width


def bytes_per_sample(
    latent_shape: tuple[int, int, int], posterior: Posterior, dtype: StoredDtype, views: int, num_classes: int
) -> int:
    """Bytes that one sample takes in a tar: an array for each view, the label of a set with classes, and the source.

    `views` is 2 with mirror images and 1 without. Each of these files costs a tar header of 512 bytes and its content
    rounded up to 512; the JSON that names the source image is taken to fit into 512 bytes, as it does unless the
    name is longer than about 450 characters.
    """
    array = NPY_HEADER + math.prod(stored_shape(latent_shape, posterior)) * STORED_DTYPES[dtype].itemsize
    contents = [array] * views + [tarfile.BLOCKSIZE] * (2 if num_classes else 1)
    return sum(tarfile.BLOCKSIZE + -(-content // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE for content in contents)


def sample_key(index: int) -> str:
    """The WebDataset key of input number `index`."""
    return f"{index:09d}"


def shard_name(shard: int) -> str:
    return f"shard-{shard:06d}"


def tar_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.tar"


def index_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.index.npy"


def summary_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.json"


def complete_summary(directory: Path, name: str) -> ShardSummary | None:
    """The summary of shard `name`; None where the shard is not complete.

    A shard is complete if its summary and index exist and its tar has the size that the summary states.
    """
    path = summary_path(directory, name)
    if not path.exists() or not index_path(directory, name).exists():
        return None
    summary = _read(ShardSummary, path)
    tar = tar_path(directory, name)
    return summary if tar.exists() and tar.stat().st_size == summary.size else None


def read_plan(directory: Path) -> Plan:
    return _read(Plan, directory / PLAN)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a finished set; `UserError` where it is missing, damaged, or of a newer format."""
    return _read(Manifest, directory / MANIFEST)


def stored_array(data: bytes, plan: Plan) -> np.ndarray:
    """The array in the bytes of a `.npy` member; `ValueError` where its shape or dtype is not the plan's.

    The member's own header is not trusted: nothing is unpickled, unzipped or allocated by what it says.
    """
    shape, dtype = plan.stored_shape, plan.stored_dtype
    buffer = io.BytesIO(data)
    fits = len(data) == NPY_HEADER + math.prod(shape) * dtype.itemsize
    if not fits or np.lib.format.read_magic(buffer) != (1, 0):
        raise ValueError(f"no .npy of shape {shape} and dtype {dtype}")
    if np.lib.format.read_array_header_1_0(buffer) != (shape, False, dtype):
        raise ValueError(f"its header states another shape than {shape} or another dtype than {dtype}")
    return np.frombuffer(data, dtype, offset=NPY_HEADER).reshape(shape).copy()


def write_manifest(directory: Path, plan: Plan, summaries: list[ShardSummary]) -> Manifest:
    """Write and return the manifest of a set whose shards are `summaries`, in their order."""
    sums = LatentSums.merge([summary.sums for summary in summaries], plan.latent_shape[0])
    manifest = Manifest(
        **{field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)},
        count=sum(summary.count for summary in summaries),
        latent_mean=sums.mean(),
        latent_std=sums.std(),
        shards=[ShardRecord(s.name, s.count, s.size, s.sha256) for s in summaries],
        rejected=[rejection for summary in summaries for rejection in summary.rejected],
    )
    write_json(directory / MANIFEST, manifest)
    return manifest


def write_json(path: Path, record: Plan | ShardSummary) -> None:
    """Write a record as JSON; equal records give equal bytes."""
    publish(path, (json.dumps(dataclasses.asdict(record), indent=1) + "\n").encode())


def _read(cls: type[T], path: Path) -> T:
    mend = f"Make it with {command('encode')} --out {path.parent}; delete a damaged one first."
    values = read_json(path, mend)
    version = values.get("format_version", FORMAT_VERSION)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, and this latentdebias reads up to {FORMAT_VERSION}. "
            f"Update it with: pip install -U latentdebias"
        )
    record = validate(cls, values, str(path))
    if isinstance(record, Plan) and not isinstance(record.autoencoder.get("id"), str):
        raise UserError(f"{path} is damaged: its `autoencoder` is {record.autoencoder}, without an id. {mend}")
    if isinstance(record, Manifest):
        numbers, channels = [len(record.latent_mean), len(record.latent_std)], record.latent_shape[0]
        if numbers != [channels, channels]:
            raise UserError(f"{path} is damaged: latent_mean and latent_std must have {channels} numbers. {mend}")
    return record
