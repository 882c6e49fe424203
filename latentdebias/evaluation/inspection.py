"""How well latents in shards reconstruct their source images: side-by-side pictures, and scores."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import (
    learned_perceptual_image_patch_similarity,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchvision.models import AlexNet_Weights

from latentdebias.autoencoders import Autoencoder
from latentdebias.drawing.image_sampler import save_grid
from latentdebias.errors import UserError
from latentdebias.evaluation.evaluator import evaluate, extract
from latentdebias.evaluation.extractors.extractor import Extractor
from latentdebias.evaluation.metrics.frechet import FID
from latentdebias.evaluation.sources.image_files import read_pixels
from latentdebias.evaluation.sources.shards import OfShards, ShardImages
from latentdebias.evaluation.sources.source import ImageBatch
from latentdebias.images.find import SourceImage, find_images
from latentdebias.shards.jobs.inspect import source_names
from latentdebias.shards.reader import LatentShards

LEVELS = 255.0
COLUMNS = 8
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class SourceImages(OfShards):
    """An `ImageSource` of the images that a shard set was made from, in the set's order.

    The images are found at `path` by the names in the shards. Reading raises `UserError` where one is missing.
    """

    path: str
    batch_size: int = 64

    @cached_property
    def _found(self) -> dict[str, SourceImage]:
        return _listing(self.path)

    def read(self, indices: np.ndarray) -> ImageBatch:
        """Images number `indices` (B,) int64 of the set, without labels; `UserError` where one is missing."""
        names = list(source_names(self.shards, indices))
        if missing := [name for name in names if name not in self._found]:
            raise UserError(
                f"{missing[0]!r}, an input of {self.shards.directory}, is not at {self.path!r}. Pass the "
                f"place that was encoded: --images DIR, or leave out --rfid."
            )
        resolution = self.shards.manifest.resolution
        return ImageBatch(torch.stack([_pixels(self._found[name], resolution) for name in names]))


def find_sources(shards: LatentShards, indices: np.ndarray, path: str) -> list[Tensor | None]:
    """The source image `(3, H, W)` uint8 of each sample of the ascending `indices`; None where `path` has none."""
    found = _listing(path)
    resolution = shards.manifest.resolution
    names = source_names(shards, indices)
    return [_pixels(found[name], resolution) if name in found else None for name in names]


def _listing(path: str) -> dict[str, SourceImage]:
    """The usable images at `path` by name, without names that two images share."""
    usable = [image for image in find_images(path).images if not image.fault]
    count = Counter(image.name for image in usable)
    return {image.name: image for image in usable if count[image.name] == 1}


def _pixels(source: SourceImage, resolution: int) -> Tensor:
    mend = "It was encoded, so put it back, or inspect without --images."
    return torch.from_numpy(read_pixels(source, resolution, mend).copy()).permute(2, 0, 1)


def reconstruct(shards: LatentShards, autoencoder: Autoencoder, indices: np.ndarray) -> Tensor:
    """The images decoded from the posterior means of samples `indices`: `(B, 3, H, W)` uint8, on the CPU."""
    images = ShardImages(shards, autoencoder)
    parts = np.array_split(indices, -(-len(indices) // ROWS_AT_ONCE))
    return torch.cat([images.read(rows).images.cpu() for rows in parts])


def reconstruction_scores(sources: Tensor, reconstructions: Tensor) -> dict[str, float | None]:
    """PSNR in dB, SSIM and LPIPS of pairs of uint8 images `(B, 3, H, W)`, each the mean over the pairs.

    SSIM: Wang et al. 2004, with its Gaussian window of 11 pixels. LPIPS: Zhang et al. 2018, with AlexNet; None where
    the torch hub's cache has no AlexNet weights, since nothing is downloaded.
    """
    original, given_back = sources.float(), reconstructions.float()
    psnr = peak_signal_noise_ratio(given_back, original, data_range=LEVELS, dim=(1, 2, 3), reduction="elementwise_mean")
    ssim = structural_similarity_index_measure(given_back, original, data_range=LEVELS)
    assert isinstance(ssim, Tensor)
    return {"psnr": float(psnr), "ssim": float(ssim), "lpips": _lpips(given_back, original)}


def _lpips(images: Tensor, originals: Tensor) -> float | None:
    if not alexnet_weights().is_file():
        return None
    images, originals = images / (LEVELS / 2) - 1, originals / (LEVELS / 2) - 1
    return float(learned_perceptual_image_patch_similarity(images, originals, net_type="alex"))


def alexnet_weights() -> Path:
    """Path of the AlexNet weights, which LPIPS needs, in the torch hub's cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / AlexNet_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]


def reconstruction_fid(shards: LatentShards, autoencoder: Autoencoder, path: str, extractor: Extractor) -> float:
    """rFID: the FID between the images decoded from all latents of the set and their source images at `path`."""
    decoded = extract(ShardImages(shards, autoencoder), extractor, len(shards), "reconstructions")
    sources = extract(SourceImages(shards, path), extractor, len(shards), "sources")
    return evaluate(decoded, sources, [FID()])["fid"]


def contact_sheet(sources: list[Tensor | None], reconstructions: Tensor, path: Path) -> None:
    """Write a PNG of each source image beside its reconstruction.

    A missing source image is white; where all are missing, only the reconstructions are shown.
    """
    tiles = list(reconstructions)
    if any(source is not None for source in sources):
        white = torch.full_like(reconstructions[0], 255)
        pairs = zip(sources, reconstructions, strict=True)
        tiles = [tile for source, image in pairs for tile in (white if source is None else source, image)]
    save_grid(torch.stack(tiles), COLUMNS, path)
