"""Find the kind of image source that is at a path."""

from collections.abc import Callable
from pathlib import Path

from latentdebias.autoencoders import Autoencoder
from latentdebias.evaluation.sources.image_files import FolderImages, side_of
from latentdebias.evaluation.sources.npz import NpzImages
from latentdebias.evaluation.sources.shards import ShardImages
from latentdebias.images.find import find_images
from latentdebias.shards.format import MANIFEST, read_manifest
from latentdebias.shards.reader import LatentShards

FoundImages = FolderImages | NpzImages | ShardImages


def open_images(
    path: str, resolution: int, load_autoencoder: Callable[[str], Autoencoder], batch_size: int = 64
) -> FoundImages:
    """The images at `path`: latent shards (a folder with a manifest), an ADM `.npz`, or image files.

    `load_autoencoder` is called for shards only, with the autoencoder's id in their manifest. `resolution`, in pixels,
    is used for image files only, which may differ in size.
    """
    if (Path(path) / MANIFEST).is_file():
        shards = LatentShards(path)
        return ShardImages(shards, load_autoencoder(shards.manifest.autoencoder["id"]), batch_size)
    if path.endswith(".npz"):
        return NpzImages(path, batch_size)
    return FolderImages(path, resolution, batch_size)


def resolution_of(path: str) -> int:
    """The side in pixels of the images at `path`; of image files that of the first.

    Raises `UserError` where the manifest, the `.npz` or the first image is unusable.
    """
    if (Path(path) / MANIFEST).is_file():
        return read_manifest(Path(path)).resolution
    if path.endswith(".npz"):
        return NpzImages(path).resolution
    return side_of(find_images(path).images[0])
