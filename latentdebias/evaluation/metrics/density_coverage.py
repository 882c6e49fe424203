"""Density and coverage of samples against the manifold of the reference."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveInt

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.evaluation.metrics.metric import METRICS, Better
from latentdebias.evaluation.metrics.neighbours import by_block, holding, inside, radii


@METRICS.register("density_coverage")
@dataclass(frozen=True)
class DensityCoverage:
    """Density and coverage, from the balls about reference images whose radius reaches their k-th nearest neighbour.

    Density is the number of balls that a sample is in, averaged over the samples and divided by k; coverage is the
    share of balls with at least one sample. Naeem et al. 2020 (arXiv:2002.09797): more robust to outliers than
    precision and recall. Implemented here because neither torchmetrics nor torch-fidelity has them.
    """

    better: ClassVar[dict[str, Better]] = {"density": "higher", "coverage": "higher"}
    k: PositiveInt = 5

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"density" >= 0, "coverage" in [0, 1]}; higher is better.

        Empty where the samples have no features, or the reference has features of no more than k images.
        """
        if not samples.has_features or len(reference.features) <= self.k:
            return {}
        real = reference.features
        held, covered = 0, torch.zeros(len(real), dtype=torch.bool)
        for balls in inside(samples.features, real, radii(real, self.k)):
            held += int(balls.sum())
            covered |= balls.any(0)
        return {"density": held / (self.k * len(samples.features)), "coverage": float(covered.double().mean())}

    def measure_halves(self, samples: FeatureSet, reference: FeatureSet, halves: Halves) -> dict[str, list[float]]:
        """The density and the coverage of each half, by score's name; empty where `measure` is."""
        if not samples.has_features or len(reference.features) <= self.k:
            return {}
        real = reference.features
        radius = radii(real, self.k)
        held = torch.cat([balls.sum(1) for balls in inside(samples.features, real, radius)]).double() / self.k
        # With a row for each ball, a chunk of rows is reduced at once and need not be kept.
        covered = torch.cat([by_block(balls, halves) for balls in holding(real, radius, samples.features)])
        return {
            "density": [float(held[halves.rows(chosen)].mean()) for chosen in halves.chosen],
            "coverage": [float(covered[:, chosen].any(1).double().mean()) for chosen in halves.chosen],
        }
