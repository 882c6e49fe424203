"""Scores, intervals and protocol of one set of samples, in one record."""

from collections.abc import Sequence

from latentdebias.evaluation.evaluator import evaluate
from latentdebias.evaluation.extractors.extractor import Extractor
from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.metric import Metric
from latentdebias.evaluation.protocol.intervals import RESAMPLES, intervals
from latentdebias.evaluation.protocol.record import ProtocolRecord, SamplingProtocol, record_of, resize_of


def score(
    samples: FeatureSet,
    reference: FeatureSet,
    metrics: Sequence[Metric],
    extractor: Extractor,
    *,
    samples_path: str,
    reference_path: str,
    sampling: SamplingProtocol | None = None,
    resamples: int = RESAMPLES,
) -> ProtocolRecord:
    """Every metric's scores, their intervals from `resamples` halves of the samples, and how they came about."""
    scores = evaluate(samples, reference, metrics)
    return record_of(
        scores,
        metrics,
        samples,
        reference,
        samples_path=samples_path,
        reference_path=reference_path,
        extractor=extractor.identity,
        sampling=sampling,
        resize=resize_of(extractor),
        intervals=intervals(samples, reference, metrics, scores, resamples),
        resamples=resamples,
    )
