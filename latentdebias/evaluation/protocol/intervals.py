"""95% intervals of scores, from random halves of the samples."""

from collections.abc import Sequence

import torch
from tqdm import tqdm

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.evaluation.metrics.metric import Better, MeasuresHalves, Metric, measure_each_half

RESAMPLES = 200
SMALLEST_SET = 20
QUANTILE = 1.96
"""Of the normal distribution, at 97.5%."""
Interval = tuple[float, float]


def intervals(
    samples: FeatureSet,
    reference: FeatureSet,
    metrics: Sequence[Metric],
    scores: dict[str, float],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """By score's name, where its 95% interval begins and ends, for every score that has a better direction.

    The score is taken again on `resamples` random halves of the samples (`Halves`, which says why halves), and 1.96
    standard deviations of these values are laid to either side of `scores`. Not their percentiles: a biased score such
    as FID is larger on every half. The intervals tell what other seeds would change; the reference is taken as it is.
    Empty for fewer than 20 samples and for fewer than 2 resamples.
    """
    if resamples < 2 or len(samples.logits) < SMALLEST_SET:
        return {}
    halves = Halves.of(len(samples.logits), resamples, seed)
    found: dict[str, Interval] = {}
    for metric in tqdm(metrics, desc="intervals", unit="metric"):
        names = scores.keys() & better_of([metric]).keys()
        values = _values(metric, samples, reference, halves) if names else {}
        found |= {name: _about(scores[name], each) for name, each in values.items() if name in names}
    return found


def better_of(metrics: Sequence[object]) -> dict[str, Better]:
    """Which way each score of `metrics` is better, as far as they say."""
    return {name: better for metric in metrics for name, better in getattr(metric, "better", {}).items()}


def _values(metric: Metric, samples: FeatureSet, reference: FeatureSet, halves: Halves) -> dict[str, list[float]]:
    if isinstance(metric, MeasuresHalves):
        return metric.measure_halves(samples, reference, halves)
    return measure_each_half(metric, samples, reference, halves)


def _about(score: float, values: list[float]) -> Interval:
    margin = QUANTILE * float(torch.tensor(values, dtype=torch.float64).std())
    return score - margin, score + margin
