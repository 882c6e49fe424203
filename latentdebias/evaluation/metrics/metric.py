"""The contract of a metric, and the registry that `@METRICS.register(name)` adds one to."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

import torch

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.half_samples import HalfSamples
from latentdebias.registry import Registry

Better = Literal["lower", "higher", "nearer to 0"]


def loss_of(score: float, better: Better) -> float:
    """A number that is lower for a better score; infinity for a score that is no number."""
    if math.isnan(score):
        return math.inf
    return {"lower": score, "higher": -score, "nearer to 0": abs(score)}[better]


class Metric(Protocol):
    """A frozen dataclass whose fields are the metric's options.

    A class variable `better: ClassVar[dict[str, Better]]` may say for each score which direction is better. Only scores
    listed there have confidence intervals and a verdict when two evaluations are compared.
    """

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """The scores by name; an empty dict where the sets lack what the metric needs.

        A metric with much to compute may do so on `samples.device`, to which it copies what it needs of both sets.
        """


@runtime_checkable
class MeasuresHalfSamples(Protocol):
    """An optional method of a metric: measure many halves of the samples faster than one at a time."""

    def measure_half_samples(
        self, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples
    ) -> dict[str, list[float]]:
        """A value for each half, by score's name.

        Only the spread of the values over the halves is used, so they may be offset by a constant from what `measure`
        gives.
        """


def measure_each_half_sample(
    metric: Metric, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples
) -> dict[str, list[float]]:
    """The scores of `metric` on each half, by name, measured half by half; scores missing on any half are dropped."""
    measured = [metric.measure(samples.part(halves.rows(chosen)), reference) for chosen in halves.chosen]
    in_all = [name for name in measured[0] if all(name in scores for scores in measured)]
    return {name: [scores[name] for scores in measured] for name in in_all}


METRICS: Registry[Metric] = Registry("metric")


@contextmanager
def seeded_cpu_rng(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block, and restore its state afterwards."""
    # torch.manual_seed would also reseed every GPU, which fork_rng(devices=[]) does not restore.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
