"""Decode and crop images in worker processes, in batches of one shard each."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from latentdebias.errors import UserError
from latentdebias.images.find import SourceImage
from latentdebias.images.preprocess import centre_crop, decode_image
from latentdebias.shards.format import Plan, Rejection
from latentdebias.workers import ErrorsAsValues, raised

MACHINE_FAULTS = {
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
}


@dataclass(frozen=True)
class DecodedBatch:
    """Cropped images of one shard: uint8 pixels `(B, H, W, 3)`, black where an input was rejected.

    `inputs` are the inputs' numbers, and `sizes` their original (width, height), None where one was rejected. The
    pixels are no tensor, for worker processes pass tensors through shared memory, of which containers give little.
    """

    shard: int
    inputs: range
    pixels: np.ndarray
    sizes: list[tuple[int, int] | None]
    rejected: list[Rejection]


def decoded_batches(
    images: list[SourceImage], plan: Plan, pending: list[int], batch_size: int, workers: int | None
) -> Iterator[DecodedBatch]:
    """The inputs of the shards numbered `pending`, in that order, decoded in `workers` processes (None: up to 4).

    No batch spans two shards. `batch_size` is rounded up to a multiple of `plan.forward_batch`. Raises `UserError`
    where the storage or the machine fails; an image file that cannot be decoded is rejected.
    """
    size = -(-batch_size // plan.forward_batch) * plan.forward_batch
    batches = [
        (shard, inputs[start : start + size])
        for shard in pending
        for inputs in [plan.inputs_of(shard)]
        for start in range(0, len(inputs), size)
    ]
    workers = min(4, os.cpu_count() or 1) if workers is None else workers
    dataset = _DecodedBatches(images, batches, plan.resolution)
    loader = DataLoader(ErrorsAsValues(dataset), batch_size=None, num_workers=min(workers, len(batches)))
    return raised(loader)


class _DecodedBatches(Dataset[DecodedBatch]):
    """A dataset whose element i is the decoded `batches[i]`: the number of a shard, and the numbers of its inputs."""

    def __init__(self, images: list[SourceImage], batches: list[tuple[int, range]], resolution: int) -> None:
        self.images = images
        self.batches = batches
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> DecodedBatch:
        shard, inputs = self.batches[number]
        pixels = np.zeros((len(inputs), self.resolution, self.resolution, 3), np.uint8)
        sizes: list[tuple[int, int] | None] = [None] * len(inputs)
        rejected: list[Rejection] = []
        for slot, index in enumerate(inputs):
            source = self.images[index]
            try:
                image = _decode(source)
                pixels[slot] = centre_crop(image, self.resolution)
            except UserError:
                raise
            # Pillow's readers raise nearly any exception on bad bytes, and one bad file must not end the job.
            except Exception as error:
                rejected.append(Rejection(source.name, f"{type(error).__name__}: {error}"))
            else:
                sizes[slot] = image.size
        return DecodedBatch(shard, inputs, pixels, sizes, rejected)


def _decode(source: SourceImage) -> Image.Image:
    if source.fault:
        raise ValueError(source.fault)
    return decode_image(_read(source))


def _read(source: SourceImage) -> bytes:
    """The bytes of the image file; `UserError` where the machine is at fault, for which no input may be rejected."""
    try:
        return source.read()
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno not in MACHINE_FAULTS:
            raise
        raise UserError(
            f"{source.name} could not be read ({type(error).__name__}: {error}), which is a fault of the storage or "
            f"the machine. Nothing was lost: run the same command again once it is mended, and it goes on from there."
        ) from None
