"""Frechet inception distance."""

from dataclasses import dataclass
from typing import ClassVar

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.frechet import frechet_distance, frechet_distances_of_halves
from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.evaluation.metrics.metric import METRICS, Better


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

    def measure_halves(self, samples: FeatureSet, reference: FeatureSet, halves: Halves) -> dict[str, list[float]]:
        """The distance of each half, by score's name; of at most 20 halves where features have over 512 dimensions."""
        if not samples.has_features:
            return {}
        distances = frechet_distances_of_halves(samples.features, reference.feature_moments(), halves)
        return {samples.distance: distances}
