"""The contract of a metric, and the register in which a new one enters by one decorator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

import torch

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.registry import Registry

Better = Literal["lower", "higher", "nearer to 0"]


class Metric(Protocol):
    """A frozen dataclass whose fields are the metric's options.

    It may say which way its scores are better, as a class variable `better: ClassVar[dict[str, Better]]`: of these
    scores intervals are made, and records are compared by them.
    """

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """Scores by name; empty where the sets lack what the metric needs."""


@runtime_checkable
class MeasuresHalves(Protocol):
    """What a metric offers that has a faster way over many halves of the samples than to measure each anew."""

    def measure_halves(self, samples: FeatureSet, reference: FeatureSet, halves: Halves) -> dict[str, list[float]]:
        """By score's name, a value a half; they need only differ from one another as the scores would."""


def measure_each_half(
    metric: Metric, samples: FeatureSet, reference: FeatureSet, halves: Halves
) -> dict[str, list[float]]:
    """The plain way: `metric` measured on every half anew; scores that some half lacks are left out."""
    measured = [metric.measure(samples.part(halves.rows(chosen)), reference) for chosen in halves.chosen]
    in_all = [name for name in measured[0] if all(name in scores for scores in measured)]
    return {name: [scores[name] for scores in measured] for name in in_all}


METRICS: Registry[Metric] = Registry("metric")


@contextmanager
def seeded_cpu_rng(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block, and put its state back afterwards."""
    # torch.manual_seed would also reseed every GPU, which fork_rng(devices=[]) does not put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
