"""Image files as a source: folders, lists, archives, and anything else that `find_images` lists."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from latentdebias.errors import UserError
from latentdebias.evaluation.sources.source import ImageBatch, Indexed, channels_first
from latentdebias.images.find import ImageSet, SourceImage, find_images
from latentdebias.images.preprocess import PREPROCESSING, centre_crop, decode_image

T = TypeVar("T")
MEND = "Leaving it out would change the score: remove or replace it."


@dataclass(frozen=True)
class FolderImages(Indexed):
    """Image files as `latentdebias.images.find.find_images` lists them: folders, lists, `.tar` or `.zip` archives.

    Each image goes through ADM's centre crop to `resolution`, which does not change an image of that size. An image
    that cannot be decoded raises `UserError`, because leaving it out would change the score unnoticed.
    """

    path: str
    resolution: int
    batch_size: int = 64

    @cached_property
    def _listing(self) -> ImageSet:
        return find_images(self.path)

    @property
    def count(self) -> int:
        return len(self._listing.images)

    @property
    def num_classes(self) -> int | None:
        return self._listing.num_classes or None

    def read(self, indices: np.ndarray) -> ImageBatch:
        """Images number `indices` (B,) int64, with their labels; `UserError` where one is unusable."""
        sources = [self._listing.images[index] for index in indices]
        with ThreadPoolExecutor() as threads:
            pixels = np.stack(list(threads.map(self._pixels, sources)))
        labels = torch.tensor([source.label for source in sources]) if self.num_classes else None
        return ImageBatch(channels_first(pixels), labels)

    def _pixels(self, source: SourceImage) -> np.ndarray:
        return read_pixels(source, self.resolution, MEND)

    def fingerprint(self) -> str:
        """The sha256 over the bytes, names and labels of all files, and over how they are cropped."""
        digest = hashlib.sha256(json.dumps([PREPROCESSING, self.resolution]).encode())
        with ThreadPoolExecutor() as threads:
            hashed = threads.map(_hashed, self._listing.images)
            for line in tqdm(hashed, desc="hash", total=self.count, unit="image", delay=3):
                digest.update(line)
        return digest.hexdigest()


def _hashed(source: SourceImage) -> bytes:
    sha256 = _usable(source, lambda: hashlib.sha256(source.read()).hexdigest(), MEND)
    return json.dumps([source.name, source.label, sha256]).encode()


def read_pixels(source: SourceImage, resolution: int, mend: str) -> np.ndarray:
    """The image, centre-cropped, as uint8 (resolution, resolution, 3); `UserError` ending in `mend` if unusable."""
    return _usable(source, lambda: centre_crop(decode_image(source.read()), resolution), mend)


def side_of(source: SourceImage) -> int:
    """The shorter side of the image in pixels; `UserError` where the image is unusable."""
    return _usable(source, lambda: min(decode_image(source.read()).size), MEND)


def _usable(source: SourceImage, read: Callable[[], T], mend: str) -> T:
    """The value of `read()`; raises `UserError` about the image `source` where that fails."""
    try:
        if source.fault:
            raise ValueError(source.fault)
        return read()
    # Pillow's readers raise many kinds of exception for damaged bytes, struct.error and SyntaxError among them.
    except Exception as error:
        raise UserError(f"The image {source.name!r} is unusable ({type(error).__name__}: {error}). {mend}") from error
