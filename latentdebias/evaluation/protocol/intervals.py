"""95% intervals of scores, from random halves of the samples."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from tqdm import tqdm

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.half_samples import HalfSamples
from latentdebias.evaluation.metrics.metric import Better, MeasuresHalfSamples, Metric, measure_each_half_sample
from latentdebias.precision import computing_in

RESAMPLES = 200
SMALLEST_SET = 20
QUANTILE = 1.96
"""The normal distribution's quantile at 97.5%."""
Score = Annotated[float, Field(allow_inf_nan=True)]
"""A score: infinite or NaN where so few images have none."""
Interval = tuple[Score, Score]


@computing_in("fp32")
def intervals(
    samples: FeatureSet,
    reference: FeatureSet,
    metrics: Sequence[Metric],
    scores: dict[str, float],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """The 95% interval (low, high), by score's name, of every score that a metric lists in `better`.

    The metrics are measured on `resamples` random halves of the samples (see `HalfSamples`). An interval is the score
    plus and minus 1.96 standard deviations of its values on the halves. Percentiles would be wrong, because a biased
    score such as FID is larger on every half. The intervals cover the randomness of the samples, not of the reference.
    Empty for fewer than 20 samples or fewer than 2 resamples.
    """
    if resamples < 2 or len(samples.logits) < SMALLEST_SET:
        return {}
    halves = HalfSamples.of(len(samples.logits), resamples, seed)
    found: dict[str, Interval] = {}
    for metric in tqdm(metrics, desc="intervals", unit="metric"):
        names = scores.keys() & better_of([metric]).keys()
        values = _values(metric, samples, reference, halves) if names else {}
        found |= {name: _about(scores[name], each) for name, each in values.items() if name in names}
    return found


def better_of(metrics: Sequence[object]) -> dict[str, Better]:
    """The better direction of each score, by name, for the `metrics` that state one."""
    return {name: better for metric in metrics for name, better in getattr(metric, "better", {}).items()}


def _values(metric: Metric, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples) -> dict[str, list[float]]:
    if isinstance(metric, MeasuresHalfSamples):
        return metric.measure_half_samples(samples, reference, halves)
    return measure_each_half_sample(metric, samples, reference, halves)


def _about(score: float, values: list[float]) -> Interval:
    margin = QUANTILE * float(torch.tensor(values, dtype=torch.float64).std())
    return score - margin, score + margin
