"""Images through an extractor once, then any number of metrics over what it gave."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from latentdebias.errors import UserError
from latentdebias.evaluation.extractors import Extractor
from latentdebias.evaluation.features import Features, FeatureSet
from latentdebias.evaluation.images import ImageBatch
from latentdebias.evaluation.metric import Metric


def extract(
    images: Iterable[ImageBatch],
    extractor: Extractor,
    limit: int | None,
    description: str,
    num_classes: int | None = None,
) -> FeatureSet:
    """Features and logits of the first `limit` images (None: of all), whatever their batch size.

    Class folders and their shards are in the order of the classes, so a limit there takes the first classes;
    `EvenlySpaced` takes images of all. `num_classes` is how many classes the images' labels are of.
    Raises `UserError` where there are no images.
    """
    digest = hashlib.sha256()
    parts: list[Features] = []
    labels: list[Tensor | None] = []
    with tqdm(total=limit, desc=description, unit="image") as progress:
        for batch in _up_to(limit, images):
            parts.append(_on_cpu(extractor(batch.images)))
            labels.append(batch.labels)
            for image in batch.images.cpu():
                digest.update(f"{tuple(image.shape)}".encode())
                digest.update(image.contiguous().numpy())
            progress.update(len(batch.images))
    if not parts:
        raise UserError(f"Nothing to score: no images came for {description!r}; check that its path holds some.")
    return FeatureSet(
        features=torch.cat([part.features for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        labels=_joined(labels),
        num_classes=num_classes,
        sha256=digest.hexdigest(),
    )


def _on_cpu(features: Features) -> Features:
    return Features(features.features.float().cpu(), features.logits.float().cpu())


def _joined(labels: list[Tensor | None]) -> Tensor | None:
    known = [part.cpu() for part in labels if part is not None]
    return torch.cat(known) if len(known) == len(labels) else None


def _up_to(limit: int | None, batches: Iterable[ImageBatch]) -> Iterator[ImageBatch]:
    """The batches until `limit` images are reached, the last one cut; no batch more is asked for."""
    left = limit
    for batch in batches:
        yield batch.first(left)
        if left is not None:
            left -= len(batch.images)
            if left <= 0:
                return


def evaluate(samples: FeatureSet, reference: FeatureSet, metrics: Sequence[Metric]) -> dict[str, float]:
    """The scores of all `metrics`; both sets must come from one extractor, with two images or more."""
    assert samples.features.shape[1] == reference.features.shape[1], "features of two different extractors"
    for name, images in (("samples", samples), ("reference", reference)):
        if images.count < 2:
            raise UserError(f"The {name} hold {images.count} image, and a score needs at least 2: add images.")
    scores: dict[str, float] = {}
    for metric in tqdm(metrics, desc="scoring", unit="metric"):
        scores |= metric.measure(samples, reference)
    return scores
