"""The features of the reference set that samples are scored against: extracted once, then read from a cache."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from latentdebias.evaluation.evaluator import extract_over_ranks
from latentdebias.evaluation.extractors.extractor import Extractor
from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.moments import Moments
from latentdebias.evaluation.sources.npz import NpzImages
from latentdebias.evaluation.sources.source import ImageSource
from latentdebias.evaluation.statistics_cache import StatisticsCache, cache_key
from latentdebias.files import check_output_folder
from latentdebias.process_groups import from_first, ranks

MAX_FEATURES = 100_000
"""The largest number of images whose features are kept, 2 GB with Inception; moments are of all images."""


class ReferenceSource(ImageSource, Protocol):
    """An image source of stored files, which have a hash before any feature is extracted."""

    def fingerprint(self) -> str:
        """The sha256 of everything that determines the images."""


def reference_features(source: ReferenceSource, extractor: Extractor, folder: Path) -> FeatureSet | None:
    """The feature set of `source`, read from the cache in `folder`, or else extracted by all ranks and cached.

    Returns None on every rank but 0. The moments, float64, are those of all images; where there are more than 100,000
    images, features are kept of 100,000 evenly spaced ones. Moments in an ADM `.npz` take the place of those of its
    images. Raises `UserError` for moments of another extractor, and where `folder` cannot be written.
    """
    rank, _ = ranks()
    published = source.published_moments(extractor.num_features) if isinstance(source, NpzImages) else (None, None)
    if not source.count:
        return _moments_alone(source, extractor, *published) if rank == 0 else None
    cache, key, known = StatisticsCache(folder), "", None
    if rank == 0:
        check_output_folder(folder)
        key = cache_key(source.fingerprint(), extractor.identity, extractor.resize)
        known = cache.read(key)
    if from_first(known is not None):
        return known
    found = extract_over_ranks(source, extractor, "reference")
    if found is None:
        return None
    found = _with_moments(found, *published)
    if published[0] is not None:
        # Published moments may be of other images than the file holds, so the hash has to cover the whole file.
        found = replace(found, sha256=source.fingerprint())
    found = _limited(found)
    cache.write(key, found)
    return found


def _moments_alone(
    source: ReferenceSource, extractor: Extractor, moments: Moments | None, spatial: Moments | None
) -> FeatureSet:
    return FeatureSet(
        features=torch.zeros(0, extractor.num_features),
        logits=torch.zeros(0, 0),
        labels=None,
        num_classes=None,
        sha256=source.fingerprint(),
        moments=moments,
        spatial_moments=spatial,
        distance=extractor.distance,
    )


def _with_moments(images: FeatureSet, moments: Moments | None, spatial: Moments | None) -> FeatureSet:
    """The set with the published moments, or with those of its own features where none were published."""
    return replace(
        images,
        moments=moments or images.feature_moments(),
        spatial_moments=spatial or images.spatial_feature_moments(),
    )


def _limited(images: FeatureSet) -> FeatureSet:
    count = len(images.features)
    if count <= MAX_FEATURES:
        return images
    part = images.part(torch.arange(MAX_FEATURES) * count // MAX_FEATURES)
    return replace(part, moments=images.moments, spatial_moments=images.spatial_moments)
