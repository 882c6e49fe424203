"""Latent shards: made from images by `encode_images`, checked by `verify`, read by `LatentShards`."""

from latentdebias.data.encoding import LatentEncoder, encode_images
from latentdebias.data.images import ImageSet, find_images
from latentdebias.data.reader import LatentShards
from latentdebias.data.shards import Manifest, read_manifest
from latentdebias.data.verify import verify

__all__ = [
    "ImageSet",
    "LatentEncoder",
    "LatentShards",
    "Manifest",
    "encode_images",
    "find_images",
    "read_manifest",
    "verify",
]
