from dataclasses import dataclass

import pytest
import torch
from torch import nn

from latentdebias.errors import UserError
from latentdebias.evaluation.evaluator import evaluate, extract, extract_over_ranks
from latentdebias.evaluation.extractors import Extractor, Features
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.sources.source import ImageBatch, Indexed


class MeansAndPixels(Extractor):
    """Features are the first pixels, logits the channels' means: easy to foresee, and fast."""

    def __init__(self):
        super().__init__(nn.Linear(1, 1), num_features=4, identity="means")
        self.seen = 0

    def extract(self, images):
        self.seen += len(images)
        return Features(images[:, 0, 0, :4].float(), images.float().mean(dim=(2, 3)))


@dataclass(frozen=True)
class ListedImages(Indexed):
    images: torch.Tensor
    labels: torch.Tensor
    batch_size: int = 5
    num_classes: int = 3

    @property
    def count(self):
        return len(self.images)

    def read(self, indices):
        return ImageBatch(self.images[indices], self.labels[indices])


def images_and_labels(count=23, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 6, 6), dtype=torch.uint8, generator=g)
    return images, torch.arange(count) % 3


def batches(images, labels=None, size=5):
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        yield ImageBatch(images[rows], None if labels is None else labels[rows])


@pytest.mark.parametrize("size", [1, 7, 23])
def test_extraction_does_not_depend_on_the_batch_size(size):
    images, labels = images_and_labels()
    found = extract(batches(images, labels, size), MeansAndPixels(), None, "samples", num_classes=3)
    assert torch.equal(found.features, images[:, 0, 0, :4].float())
    assert torch.equal(found.logits, images.float().mean(dim=(2, 3)))
    assert torch.equal(found.labels, labels)
    assert (found.count, found.num_classes) == (23, 3)
    assert found.sha256 == extract(batches(images), MeansAndPixels(), None, "samples").sha256


def test_each_image_is_extracted_once_and_no_more_than_the_limit():
    images, labels = images_and_labels()
    extractor = MeansAndPixels()
    found = extract(batches(images, labels), extractor, 12, "samples")
    assert found.count == extractor.seen == len(found.labels) == 12
    assert torch.equal(found.features, images[:12, 0, 0, :4].float())


def test_no_batch_is_drawn_beyond_the_limit():
    images, _ = images_and_labels()
    source = batches(images, size=5)
    extract(source, MeansAndPixels(), 10, "samples")
    assert torch.equal(next(source).images, images[10:15])


def test_the_hash_tells_pixels_order_and_shape_apart():
    images, _ = images_and_labels()
    brighter = images.clone()
    brighter[3, 0, 0, 0] ^= 1
    variants = [images, brighter, images.flip(0), images[:-1], images.reshape(23, 3, 4, 9)]
    hashes = {extract(batches(variant), MeansAndPixels(), None, "x").sha256 for variant in variants}
    assert len(hashes) == len(variants)


def test_labels_of_some_batches_only_are_no_labels():
    images, labels = images_and_labels()
    mixed = [ImageBatch(images[:5], labels[:5]), ImageBatch(images[5:])]
    assert extract(mixed, MeansAndPixels(), None, "samples").labels is None


def test_no_images_are_an_error_of_the_user():
    with pytest.raises(UserError, match="no images came for 'reference'"):
        extract([], MeansAndPixels(), None, "reference")


def test_evaluate_joins_the_scores_of_all_metrics():
    images, labels = images_and_labels()
    samples = extract(batches(images, labels), MeansAndPixels(), None, "samples", num_classes=3)
    reference = extract(batches(images_and_labels(seed=1)[0]), MeansAndPixels(), None, "reference")
    metrics = [METRICS.build(name) for name in METRICS.names()]
    scores = evaluate(samples, reference, metrics)
    assert set(scores) >= {"fid", "kid", "kid_std", "inception_score", "class_accuracy", "precision", "coverage"}
    assert set(scores) >= {"colour_shift", "spectrum_shift", "density", "recall"}
    assert scores["fid"] == metrics[METRICS.names().index("fid")].measure(samples, reference)["fid"]


def test_a_single_image_cannot_be_scored():
    images, _ = images_and_labels()
    one = extract(batches(images), MeansAndPixels(), 1, "samples")
    many = extract(batches(images), MeansAndPixels(), None, "reference")
    with pytest.raises(UserError, match="reference hold 1 image"):
        evaluate(many, one, [METRICS.build("fid")])


def test_of_one_rank_sharing_the_work_changes_nothing():
    images, labels = images_and_labels()
    source = ListedImages(images, labels)
    shared = extract_over_ranks(source, MeansAndPixels(), "samples")
    alone = extract(source, MeansAndPixels(), None, "samples", num_classes=3)
    assert shared.sha256 == alone.sha256
    assert torch.equal(shared.features, alone.features)
    assert torch.equal(shared.labels, alone.labels)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_the_ranks_batches_together_are_those_of_one_process(world_size):
    images, labels = images_and_labels()
    source = ListedImages(images, labels)
    shares = [list(source.batches(rank, world_size)) for rank in range(world_size)]
    in_turn = [shares[number % world_size][number // world_size] for number in range(5)]
    for batch, expected in zip(in_turn, source, strict=True):
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)
    assert sum(map(len, shares)) == 5
