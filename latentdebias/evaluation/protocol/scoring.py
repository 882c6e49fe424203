"""Scoring one set of samples, with intervals and protocol, into one record."""

from collections.abc import Sequence
from dataclasses import dataclass

from latentdebias.evaluation.evaluator import evaluate
from latentdebias.evaluation.extractors.extractor import Extractor
from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.metric import METRICS, Metric
from latentdebias.evaluation.protocol.intervals import RESAMPLES, intervals
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.evaluation.protocol.sampling_protocol import SamplingProtocol
from latentdebias.images.preprocess import PREPROCESSING


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
