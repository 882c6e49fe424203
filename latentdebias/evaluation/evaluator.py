"""Extract the features of images once, then compute any number of metrics from them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from latentdebias.errors import UserError
from latentdebias.evaluation.extractors.extractor import Extractor
from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.colour import colour_statistics
from latentdebias.evaluation.metrics.metric import Metric
from latentdebias.evaluation.sources.source import ImageBatch, ImageSource
from latentdebias.precision import computing_in
from latentdebias.process_groups import gathered_in_turn, ranks


@dataclass(frozen=True)
class _Part:
    """The features, colour statistics and labels of one batch, on the CPU, and each image's sha256 (`digests`)."""

    features: Tensor
    logits: Tensor
    spatial: Tensor | None
    colour: Tensor
    labels: Tensor | None
    digests: list[bytes]


def extract(
    images: Iterable[ImageBatch],
    extractor: Extractor,
    limit: int | None,
    description: str,
    num_classes: int | None = None,
) -> FeatureSet:
    """The feature set of the first `limit` images, or of all where `limit` is None.

    Class folders, and shards made from them, list their images class by class, so a limit takes only the first classes;
    `EvenlySpaced` takes images of all classes. `num_classes` is the number of classes of the labels. All features are
    held in memory: 20 kB per image with Inception. Raises `UserError` where there are no images.
    """
    parts = list(_parts(_up_to(limit, images), extractor, limit, description))
    return _joined(parts, extractor, num_classes, description)


def extract_over_ranks(images: ImageSource, extractor: Extractor, description: str) -> FeatureSet | None:
    """The feature set of all `images`, computed by all ranks of `joined_ranks`; None on every rank but 0.

    Each rank takes whole batches, and rank 0 puts the results in the batches' order, so they equal those of a single
    process to the bit. Raises `UserError` where there are no images.
    """
    rank, world_size = ranks()
    total = -(-images.count // world_size)
    parts = gathered_in_turn(list(_parts(images.batches(rank, world_size), extractor, total, description)))
    return None if rank else _joined(parts, extractor, images.num_classes, description)


def _parts(batches: Iterable[ImageBatch], extractor: Extractor, total: int | None, description: str) -> Iterator[_Part]:
    rank, _ = ranks()
    with tqdm(total=total, desc=description, unit="image", disable=rank > 0) as progress:
        for batch in batches:
            features = extractor(batch.images)
            yield _Part(
                features.features.float().cpu(),
                features.logits.float().cpu(),
                None if features.spatial is None else features.spatial.float().cpu(),
                colour_statistics(batch.images.to(extractor.device)).cpu(),
                None if batch.labels is None else batch.labels.cpu(),
                [_sha256(image) for image in batch.images.cpu()],
            )
            progress.update(len(batch.images))


def _sha256(image: Tensor) -> bytes:
    digest = hashlib.sha256(f"{tuple(image.shape)}".encode())
    digest.update(image.contiguous().numpy().tobytes())
    return digest.digest()


def _joined(parts: list[_Part], extractor: Extractor, num_classes: int | None, description: str) -> FeatureSet:
    if not parts:
        raise UserError(f"Nothing to score: no images came for {description!r}; check that its path holds some.")
    return FeatureSet(
        features=torch.cat([part.features for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        labels=_all_or_none([part.labels for part in parts]),
        num_classes=num_classes,
        sha256=hashlib.sha256(b"".join(digest for part in parts for digest in part.digests)).hexdigest(),
        spatial=_all_or_none([part.spatial for part in parts]),
        colour=torch.cat([part.colour for part in parts]),
        distance=extractor.distance,
        device=extractor.device,
    )


def _all_or_none(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def _up_to(limit: int | None, batches: Iterable[ImageBatch]) -> Iterator[ImageBatch]:
    """The batches of the first `limit` images, the last batch cut to fit; no further batch is read."""
    left = limit
    for batch in batches:
        yield batch.first(left)
        if left is not None:
            left -= len(batch.images)
            if left <= 0:
                return


@computing_in("fp32")
def evaluate(samples: FeatureSet, reference: FeatureSet, metrics: Sequence[Metric]) -> dict[str, float]:
    """The scores of all `metrics` by name; both sets must be from the same extractor.

    Raises `UserError` where a set has fewer than two images.
    """
    assert samples.features.shape[1] == reference.features.shape[1], "features of two different extractors"
    for name, images in (("samples", samples), ("reference", reference)):
        if images.count < 2 and images.moments is None:
            raise UserError(f"The {name} hold {images.count} image, and a score needs at least 2: add images.")
    scores: dict[str, float] = {}
    for metric in tqdm(metrics, desc="scoring", unit="metric"):
        scores |= metric.measure(samples, reference)
    return scores
