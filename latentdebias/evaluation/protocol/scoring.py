"""Scoring one set of samples, with intervals and protocol, into one record."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.evaluation.evaluator import evaluate, extract
from latentdebias.evaluation.extractors.extractor import Extractor
from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.metric import METRICS, Metric
from latentdebias.evaluation.protocol.intervals import RESAMPLES, intervals
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity, SamplingProtocol
from latentdebias.evaluation.sources.generated import GeneratedImages
from latentdebias.evaluation.sources.source import ImageBatch
from latentdebias.images.preprocess import PREPROCESSING
from latentdebias.sampling import DrawOptions


@dataclass(frozen=True)
class Origin:
    """Where samples and reference are, and how the samples were drawn; `sampling` is None where that is not known."""

    samples: str
    reference: str
    sampling: SamplingProtocol | None = None


@dataclass(frozen=True)
class Scoring:
    """The metrics to measure on an extractor's features, with intervals from `resamples` random half samples."""

    metrics: Sequence[Metric]
    extractor: Extractor
    resamples: int = RESAMPLES

    def score(self, samples: FeatureSet, reference: FeatureSet, origin: Origin) -> ProtocolRecord:
        """The record of all scores, their 95% intervals, and everything that is needed to reproduce them."""
        scores = evaluate(samples, reference, self.metrics)
        return ProtocolRecord(
            scores=scores,
            metrics=[METRICS.spec_of(metric) for metric in self.metrics],
            num_samples=samples.count,
            num_reference=reference.count,
            samples=origin.samples,
            samples_sha256=samples.sha256,
            reference=origin.reference,
            reference_sha256=reference.sha256,
            extractor=self.extractor.identity,
            sampling=origin.sampling,
            # Image files are cropped to one size first; every image then goes through the extractor's own resize.
            resize=f"image files by {PREPROCESSING}, then {self.extractor.resize}",
            intervals=intervals(samples, reference, self.metrics, scores, self.resamples),
            resamples=self.resamples,
        )


@dataclass(frozen=True)
class ModelScoring:
    """How several models are scored alike: on `num` images each, evenly over the classes, against one reference.

    `reference_path` says where the reference is.
    """

    scoring: Scoring
    reference: FeatureSet
    reference_path: str
    num: int

    def score(
        self, model: ModelIdentity, sampler: ImageSampler, options: DrawOptions, shown: int = 0
    ) -> tuple[ProtocolRecord, list[Tensor]]:
        """Draw and score images of one model; returns the record, and the first `shown` images (3, H, W) uint8."""
        images = GeneratedImages.evenly(sampler, self.num, options)
        first: list[Tensor] = []

        def keeping_first() -> Iterator[ImageBatch]:
            for batch in images:
                first.extend(batch.images[: shown - len(first)])
                yield batch

        description = f"{options.steps} steps"
        samples = extract(keeping_first(), self.scoring.extractor, self.num, description, images.num_classes)
        origin = Origin(model.model, self.reference_path, SamplingProtocol.of(model, options, labels="even"))
        return self.scoring.score(samples, self.reference, origin), first
