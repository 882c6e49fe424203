"""Spatial Frechet inception distance (sFID)."""

from dataclasses import dataclass
from typing import ClassVar

from latentdebias.errors import UserError
from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.frechet import frechet_distance, frechet_distances_of_halves
from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.evaluation.metrics.metric import METRICS, Better


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

    def measure_halves(self, samples: FeatureSet, reference: FeatureSet, halves: Halves) -> dict[str, list[float]]:
        """The distance of each of at most 20 halves, by score's name; empty without the samples' spatial features."""
        moments = reference.spatial_feature_moments()
        if samples.spatial is None or moments is None:
            return {}
        return {"sfid": frechet_distances_of_halves(samples.spatial, moments, halves)}
