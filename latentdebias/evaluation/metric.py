"""The contract of a metric, and the register in which a new one enters by one decorator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from latentdebias.evaluation.features import FeatureSet
from latentdebias.registry import Registry


class Metric(Protocol):
    """A frozen dataclass whose fields are the metric's options."""

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """Scores by name; empty where the sets lack what the metric needs."""


METRICS: Registry[Metric] = Registry("metric")


@contextmanager
def seeded_cpu_rng(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block, and put its state back afterwards."""
    # torch.manual_seed would also reseed every GPU, which fork_rng(devices=[]) does not put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
