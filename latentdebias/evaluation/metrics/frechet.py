"""Frechet distances between Gaussians fitted to features: FID, FD-DINOv2 and sFID."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from tqdm import tqdm

from latentdebias.errors import UserError
from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.half_samples import HalfSamples
from latentdebias.evaluation.metrics.metric import METRICS, Better
from latentdebias.evaluation.moments import Moments

LARGE_DIM = 512
FEW = 20
"""How many halves of features of more than `LARGE_DIM` dimensions are measured.

Each half takes seconds at D = 2048, and 20 halves give a standard deviation to within 16%.
"""


@METRICS.register("fid")
@dataclass(frozen=True)
class FID:
    """|mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)) of the features' means and covariances, in float64.

    Heusel et al. 2017 (arXiv:1706.08500), Section 4; computed by torch-fidelity from the features of its port of the
    original network. With DINOv2's features the score is FD-DINOv2 (Stein et al. 2023, arXiv:2306.04675), and is named
    `fd_dinov2`. The bias of FID depends on the number of samples: compare only scores of equal numbers.
    """

    better: ClassVar[dict[str, Better]] = {"fid": "lower", "fd_dinov2": "lower"}

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"fid": distance}, with DINOv2 {"fd_dinov2": distance}; lower is better. Empty without features."""
        if not samples.has_features:
            return {}
        return {samples.distance: frechet_distance(samples.feature_moments(), reference.feature_moments())}

    def measure_half_samples(
        self, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples
    ) -> dict[str, list[float]]:
        """The distance of each half, by score's name; of at most 20 halves where features have over 512 dimensions."""
        if not samples.has_features:
            return {}
        distances = frechet_distances_of_half_samples(samples.features, reference.feature_moments(), halves)
        return {samples.distance: distances}


@METRICS.register("sfid")
@dataclass(frozen=True)
class SpatialFID:
    """The Frechet distance between feature maps of Inception, whose spatial structure FID's features average away.

    Nash et al. 2021 (arXiv:2103.03841); the layer is that of ADM's evaluator (`mixed_6/conv`, 7 channels x 17 x 17).
    """

    better: ClassVar[dict[str, Better]] = {"sfid": "lower"}

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"sfid": distance}; lower is better. Empty where either set has no spatial features.

        Raises `UserError` for published moments of another layer.
        """
        mine, theirs = samples.spatial_feature_moments(), reference.spatial_feature_moments()
        if mine is None or theirs is None:
            return {}
        if mine.mean.shape != theirs.mean.shape:
            raise UserError(
                f"The reference's moments are of {len(theirs.mean)} spatial features, and the extractor gives "
                f"{len(mine.mean)}; leave sfid out of --metrics, or pass a reference of the same layer."
            )
        return {"sfid": frechet_distance(mine, theirs)}

    def measure_half_samples(
        self, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples
    ) -> dict[str, list[float]]:
        """The distance of each of at most 20 halves, by score's name; empty without the samples' spatial features."""
        moments = reference.spatial_feature_moments()
        if samples.spatial is None or moments is None:
            return {}
        return {"sfid": frechet_distances_of_half_samples(samples.spatial, moments, halves)}


def frechet_distance(samples: Moments, reference: Moments) -> float:
    """The Frechet distance |mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)), in float64, computed by torch-fidelity."""
    statistics = [{"mu": each.mean.numpy(), "sigma": each.cov.numpy()} for each in (samples, reference)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def frechet_distances_of_half_samples(features: Tensor, reference: Moments, halves: HalfSamples) -> list[float]:
    """The Frechet distance of each half of features (N, D) to `reference`; of the first 20 halves where D > 512.

    The trace is computed from the symmetric matrix C_r^(1/2) C C_r^(1/2), which has the same eigenvalues as C C_r: the
    symmetric solver is faster than the general one behind `frechet_distance`, and rounding gives it no complex values.
    The sums over each block of `halves` are kept, D^2 x 8 bytes each: 2.1 GB at D = 2048.
    """
    if features.shape[1] > LARGE_DIM:
        halves = halves.first(FEW)
    # Subtracting the mean of all features avoids cancellation in the covariance of a half.
    centre = features.double().mean(0)
    blocks = [features[rows].double() - centre for rows in halves.blocks]
    counts = torch.tensor([len(block) for block in blocks], dtype=torch.float64)
    sums = torch.stack([block.sum(0) for block in blocks])
    squares = torch.stack([block.T @ block for block in blocks]).flatten(1)
    root = _root(reference.cov)
    distances = []
    for chosen in tqdm(halves.chosen.double(), desc="interval", unit="half", leave=False, delay=3):
        count = chosen @ counts
        mean = chosen @ sums / count
        cov = (chosen @ squares).view(root.shape) / (count - 1) - torch.outer(mean, mean) * count / (count - 1)
        trace = torch.linalg.eigvalsh(root @ cov @ root).clamp(min=0).sqrt().sum()
        difference = mean + centre - reference.mean
        distances.append(float(difference @ difference + cov.trace() + reference.cov.trace() - 2 * trace))
    return distances


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root of a covariance (D, D)."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
