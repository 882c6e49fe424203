"""The readers of files that other people write, each with sound files to damage and what may be refused in them."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from latentdebias.config import load_config
from latentdebias.errors import UserError
from latentdebias.evaluation.sources.npz import NpzImages
from latentdebias.images.tars import tar_members
from latentdebias.images.zips import zip_members
from latentdebias.interop.published.checkpoint_file import open_checkpoint
from latentdebias.shards.format import INDEX_DTYPE, read_manifest
from latentdebias.shards.reader import LatentShards


@dataclass(frozen=True)
class Target:
    """A reader: the name under which a file lies in its folder, sound contents of it, and how it is read.

    `beside` are other files of the folder, which stay sound. `read` may raise `UserError`, or one of `refused`, which
    the reader's caller counts as an image that is left out.
    """

    file: str
    sound: list[bytes]
    read: Callable[[Path], object]
    beside: dict[str, bytes]
    refused: tuple[type[Exception], ...] = (UserError,)


def tar(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed tar of these members."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return data.getvalue()


def zipped(method: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as file:
        file.writestr("cat/00.png", b"png" * 40)
        file.writestr("cat/00.cls", b"3")
    return data.getvalue()


def npz(save_arrays: Callable[..., None]) -> bytes:
    data = io.BytesIO()
    save_arrays(data, arr_0=np.zeros((2, 4, 4, 3), np.uint8), arr_1=np.arange(2), mu=np.zeros(3), sigma=np.eye(3))
    return data.getvalue()


def torch_saved(value: object, as_zip: bool) -> bytes:
    data = io.BytesIO()
    torch.save(value, data, _use_new_zipfile_serialization=as_zip)
    return data.getvalue()


def npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


WEIGHTS = {"blocks.0.weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(3, dtype=torch.float16)}
LATENT = npy(np.zeros((8, 2, 2), np.float16))
SHARD = tar({"000000000.latent.npy": LATENT, "000000000.cls": b"1", "000000000.json": b"{}"})
INDEX = npy(np.array([(512 + 128, -1, 1)], INDEX_DTYPE))
SHARD_RECORD = {"name": "shard-000000", "count": 1, "size": len(SHARD), "sha256": "0" * 64}
MANIFEST = json.dumps(
    {
        "format_version": 1,
        "autoencoder": {
            "id": "a",
            "config_sha256": "",
            "weights_sha256": "",
            "scaling_factor": 1.0,
            "shift_factor": 0.0,
            "channels": 4,
            "factor": 8,
        },
        "precision": "float32",
        "forward_batch": 16,
        "resolution": 16,
        "preprocessing": "adm",
        "latent_shape": [4, 2, 2],
        "posterior": "gaussian",
        "dtype": "float16",
        "flips": False,
        "samples_per_shard": 1,
        "num_inputs": 1,
        "inputs_sha256": "0",
        "num_classes": 2,
        "class_names": ["a", "b"],
        "count": 1,
        "latent_mean": [0.0] * 4,
        "latent_std": [1.0] * 4,
        "shards": [SHARD_RECORD],
        "rejected": [{"name": "b.png", "reason": "damaged"}],
    }
).encode()
CONFIG = b"base: base.yaml\ndiffusion:\n  weighting: {name: min_snr, gamma: 5}\noptimizer: {lr: 1.0e-4}\nhooks: &a []\n"


def read_images(members: Callable[[Path], object]) -> Callable[[Path], object]:
    """A reader of an archive's listing and of every image that the listing allows."""

    def read(path: Path) -> None:
        for member in members(path):  # type: ignore[attr-defined]
            if not member.image.fault:
                member.image.read()

    return read


def read_npz(path: Path) -> None:
    images = NpzImages(str(path))
    if images.count:
        images.read(np.arange(images.count))
    images.published_moments(3)


def read_shards(path: Path) -> None:
    shards = LatentShards(path.parent)
    if len(shards):
        shards.read(np.arange(len(shards)), np.zeros(len(shards), bool))


SET = {"shard-000000.tar": SHARD, "shard-000000.index.npy": INDEX, "manifest.json": MANIFEST}
LEFT_OUT = (UserError, ValueError, OSError, EOFError, zipfile.zlib.error, zipfile.struct.error)  # type: ignore[attr-defined]
TARGETS = {
    "tar": Target("a.tar", [tar({"cat/0.png": b"png" * 99, "cat/0.cls": b"1"}, form) for form in (0, 1, 2)],
                  read_images(tar_members), {}, LEFT_OUT),
    "zip": Target("a.zip", [zipped(zipfile.ZIP_STORED), zipped(zipfile.ZIP_DEFLATED)], read_images(zip_members), {},
                  LEFT_OUT),
    "npz": Target("a.npz", [npz(np.savez), npz(np.savez_compressed)], read_npz, {}),
    "safetensors": Target("a.safetensors", [save(WEIGHTS)], open_checkpoint, {}),
    "checkpoint": Target("a.pt", [torch_saved({"ema": WEIGHTS, "step": 3}, as_zip) for as_zip in (True, False)],
                         open_checkpoint, {}),
    "yaml": Target("a.yaml", [CONFIG], lambda path: load_config(str(path)), {}),
    "manifest": Target("manifest.json", [MANIFEST], lambda path: read_manifest(path.parent).identity, SET),
    "index": Target("shard-000000.index.npy", [INDEX], read_shards, SET),
}  # fmt: skip
