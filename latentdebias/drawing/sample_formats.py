"""What a sample set is written as: PNGs in class folders, WebDataset shards, ADM's `.npz`."""

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import PositiveInt

from latentdebias.drawing.sample_blocks import StoredImage, as_sample, open_tar
from latentdebias.files import published, published_folder
from latentdebias.registry import Registry


class SampleFormat(ABC):
    """A file or folder that holds a whole set; `output` is its name."""

    output: ClassVar[str]

    @abstractmethod
    def write(self, path: Path, images: Iterable[StoredImage], labels: np.ndarray, resolution: int) -> None:
        """Make `path`, whole or not at all, from images in order and their labels `(N,)`, one image in memory."""


SAMPLE_FORMATS: Registry[SampleFormat] = Registry("sample format")


@SAMPLE_FORMATS.register("png")
@dataclass(frozen=True)
class PngFolder(SampleFormat):
    """`images/CLASS/N.png`, the class as four digits."""

    output = "images"

    def write(self, path: Path, images: Iterable[StoredImage], labels: np.ndarray, resolution: int) -> None:
        with published_folder(path) as folder:
            for image in images:
                class_folder = folder / f"{image.label:04d}"
                class_folder.mkdir(exist_ok=True)
                (class_folder / f"{image.index:06d}.png").write_bytes(image.png)


@SAMPLE_FORMATS.register("webdataset")
@dataclass(frozen=True)
class WebDatasetShards(SampleFormat):
    """`webdataset/samples-000000.tar` and so on, of `N.png` and `N.cls`."""

    output = "webdataset"
    samples_per_shard: PositiveInt = 8192

    def write(self, path: Path, images: Iterable[StoredImage], labels: np.ndarray, resolution: int) -> None:
        with published_folder(path) as folder:
            starts = range(0, len(labels), self.samples_per_shard)
            rest = iter(images)
            for shard, start in enumerate(starts):
                with published(folder / f"samples-{shard:06d}.tar") as file, open_tar(file) as tar:
                    for _ in range(start, min(start + self.samples_per_shard, len(labels))):
                        tar.write(as_sample(next(rest)))


@SAMPLE_FORMATS.register("npz")
@dataclass(frozen=True)
class AdmNpz(SampleFormat):
    """`samples.npz` as ADM's evaluator reads it: `arr_0` uint8 `(N, H, W, 3)`, then `arr_1` int64 labels `(N,)`.

    The bytes are those of `np.savez`, but for the date, which is always the same.
    """

    output = "samples.npz"

    def write(self, path: Path, images: Iterable[StoredImage], labels: np.ndarray, resolution: int) -> None:
        for left_by_a_killed_run in path.parent.glob(f"{path.name}.*.tmp"):
            left_by_a_killed_run.unlink(missing_ok=True)
        shape = (len(labels), resolution, resolution, 3)
        with published(path) as file, zipfile.ZipFile(file, "w") as archive:
            with archive.open(_member("arr_0.npy"), "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for image in images:
                    member.write(image.pixels().tobytes())
            with archive.open(_member("arr_1.npy"), "w") as member:
                np.lib.format.write_array(member, labels, allow_pickle=False)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    return info
