"""Precision, recall, density and coverage, from nearest-neighbour balls in feature space.

The ball about a feature has the distance to its k-th nearest neighbour as its radius.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.half_samples import HalfSamples
from latentdebias.evaluation.metrics.metric import METRICS, Better

ROWS_AT_ONCE = 1024


@METRICS.register("precision_recall")
@dataclass(frozen=True)
class PrecisionRecall:
    """Precision, the share of samples in a ball of the reference, and recall, the share of the reference in a sample's.

    A ball has an image's features as its centre, and reaches to their k-th nearest neighbour in the same set.
    Kynkaanniemi et al. 2019 (arXiv:1904.06991). Not computed by torch-fidelity, which sorts distances on the CPU.
    """

    better: ClassVar[dict[str, Better]] = {"precision": "higher", "recall": "higher"}
    k: PositiveInt = 3

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"precision", "recall"} in [0, 1]; higher is better. Empty where a set has no more than k features."""
        if not samples.has_features or min(len(samples.features), len(reference.features)) <= self.k:
            return {}
        fake, real = on_device(samples, reference)
        hits = torch.cat([balls.any(1) for balls in inside(fake, real, radii(real, self.k))])
        reached = torch.cat([balls.any(1) for balls in inside(real, fake, radii(fake, self.k))])
        return {"precision": hits.float().mean().item(), "recall": reached.float().mean().item()}

    def measure_half_samples(
        self, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples
    ) -> dict[str, list[float]]:
        """Precision and recall of each half, by score's name; the samples' balls have their radii in the whole set."""
        if not samples.has_features or min(len(samples.features), len(reference.features)) <= self.k:
            return {}
        fake, real = on_device(samples, reference)
        hits = torch.cat([balls.any(1) for balls in inside(fake, real, radii(real, self.k))]).cpu()
        reached = torch.cat([by_block(balls, halves) for balls in inside(real, fake, radii(fake, self.k))]).cpu()
        return {
            "precision": [float(hits[halves.rows(chosen)].double().mean()) for chosen in halves.chosen],
            "recall": [float(reached[:, chosen].any(1).double().mean()) for chosen in halves.chosen],
        }


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
        fake, real = on_device(samples, reference)
        held, covered = 0, real.new_zeros(len(real), dtype=torch.bool)
        for balls in inside(fake, real, radii(real, self.k)):
            held += int(balls.sum())
            covered |= balls.any(0)
        return {"density": held / (self.k * len(samples.features)), "coverage": float(covered.double().mean())}

    def measure_half_samples(
        self, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples
    ) -> dict[str, list[float]]:
        """The density and the coverage of each half, by score's name; empty where `measure` is."""
        if not samples.has_features or len(reference.features) <= self.k:
            return {}
        fake, real = on_device(samples, reference)
        radius = radii(real, self.k)
        held = torch.cat([balls.sum(1) for balls in inside(fake, real, radius)]).cpu().double() / self.k
        # With a row for each ball, a chunk of rows is reduced at once and need not be kept.
        covered = torch.cat([by_block(balls, halves) for balls in holding(real, radius, fake)]).cpu()
        return {
            "density": [float(held[halves.rows(chosen)].mean()) for chosen in halves.chosen],
            "coverage": [float(covered[:, chosen].any(1).double().mean()) for chosen in halves.chosen],
        }


def on_device(samples: FeatureSet, reference: FeatureSet) -> tuple[Tensor, Tensor]:
    """The features (N, D) of the samples and (M, D) of the reference, on the device that computed the samples'."""
    return samples.features.to(samples.device), reference.features.to(samples.device)


def radii(features: Tensor, k: int) -> Tensor:
    """The distance (N,) from each of features (N, D) to its `k`-th nearest neighbour among the others."""
    distances = (torch.cdist(rows, features) for rows in features.split(ROWS_AT_ONCE))
    # Several times faster than kthvalue.
    return torch.cat([rows.topk(k + 1, largest=False).values[:, -1] for rows in distances])


def inside(points: Tensor, centres: Tensor, radius: Tensor) -> Iterator[Tensor]:
    """Whether points (N, D) are in the balls of `radius` (M,) about centres (M, D): chunks (B, M) of points, bool."""
    for rows in points.split(ROWS_AT_ONCE):
        yield torch.cdist(rows, centres) <= radius


def holding(centres: Tensor, radius: Tensor, points: Tensor) -> Iterator[Tensor]:
    """Whether the balls of `radius` (M,) about centres (M, D) hold points (N, D): chunks (B, N) of balls, bool."""
    for rows, ball in zip(centres.split(ROWS_AT_ONCE), radius.split(ROWS_AT_ONCE), strict=True):
        yield torch.cdist(rows, points) <= ball[:, None]


def by_block(pairs: Tensor, halves: HalfSamples) -> Tensor:
    """Whether each row of pairs (B, N), bool, is True for any of the N samples in a block: (B, number of blocks)."""
    counts = torch.zeros(len(pairs), len(halves.blocks), device=pairs.device)
    return counts.index_add_(1, halves.block_of_row().to(pairs.device), pairs.float()) > 0
