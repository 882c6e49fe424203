"""What a sample set is drawn in: blocks of PNGs and labels, each a tar that is there whole or not at all."""

import io
import itertools
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import webdataset
from PIL import Image
from torch import Tensor

from latentdebias.files import published, write_errors


@dataclass(frozen=True)
class StoredImage:
    """Image number `index` of a set, as the bytes of a PNG, and its class."""

    index: int
    label: int
    png: bytes

    def pixels(self) -> np.ndarray:
        """uint8 `(H, W, 3)`."""
        return np.asarray(Image.open(io.BytesIO(self.png)))


def open_tar(file: BinaryIO) -> webdataset.TarWriter:
    """A writer of WebDataset samples to an open file, whose bytes depend on the samples alone."""
    return webdataset.TarWriter(file, user="", group="", mtime=0, encoder=False)


def as_sample(image: StoredImage) -> dict[str, str | bytes]:
    """An image as WebDataset has it."""
    return {"__key__": f"{image.index:06d}", "png": image.png, "cls": str(image.label).encode()}


@dataclass(frozen=True)
class SampleBlocks:
    """The blocks of a set of `count` images, `size` in each but the last, in `folder`."""

    folder: Path
    count: int
    size: int

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def missing(self) -> list[int]:
        """The numbers of the blocks that have not been written."""
        return [number for number in range(len(self)) if not self._path(number).exists()]

    def write(self, number: int, images: Tensor, labels: Tensor) -> None:
        """Write block `number`: images `(B, 3, H, W)` uint8 and their labels `(B,)`."""
        with write_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
        with published(self._path(number)) as file, open_tar(file) as tar:
            rows = enumerate(zip(images, labels.tolist(), strict=True), start=number * self.size)
            for index, (image, label) in rows:
                tar.write(as_sample(StoredImage(index, label, _png_bytes(image))))

    def images(self) -> Iterator[StoredImage]:
        """All images of the set, in order."""
        return itertools.chain.from_iterable(map(self._read, range(len(self))))

    def pick(self, indices: Iterable[int]) -> dict[int, StoredImage]:
        """The images of these indices; only their blocks are read."""
        wanted = set(indices)
        numbers = sorted({index // self.size for index in wanted})
        return {image.index: image for number in numbers for image in self._read(number) if image.index in wanted}

    def _read(self, number: int) -> list[StoredImage]:
        with tarfile.open(self._path(number)) as tar:
            data = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        keys = [name.removesuffix(".png") for name in data if name.endswith(".png")]
        return [StoredImage(int(key), int(data[f"{key}.cls"]), data[f"{key}.png"]) for key in keys]

    def _path(self, number: int) -> Path:
        return self.folder / f"block-{number:06d}.tar"


def _png_bytes(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()
