"""Precision and recall of samples against the manifold of the reference."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch_fidelity.metric_prc import prc_features_to_metric

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.evaluation.metrics.metric import METRICS, Better
from latentdebias.evaluation.metrics.neighbours import ROWS_AT_ONCE, by_block, inside, radii


@METRICS.register("precision_recall")
@dataclass(frozen=True)
class PrecisionRecall:
    """Precision, the share of samples in a ball of the reference, and recall, the share of the reference in a sample's.

    A ball has an image's features as its centre, and reaches to their k-th nearest neighbour in the same set.
    Kynkaanniemi et al. 2019 (arXiv:1904.06991); computed by torch-fidelity.
    """

    better: ClassVar[dict[str, Better]] = {"precision": "higher", "recall": "higher"}
    k: PositiveInt = 3

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"precision", "recall"} in [0, 1]; higher is better. Empty where a set has no more than k features."""
        if not samples.has_features or min(len(samples.features), len(reference.features)) <= self.k:
            return {}
        scores = prc_features_to_metric(
            samples.features,
            reference.features,
            prc_neighborhood=self.k,
            prc_batch_size=ROWS_AT_ONCE,
            save_cpu_ram=True,
            verbose=False,
        )
        return {name: scores[name] for name in ("precision", "recall")}

    def measure_halves(self, samples: FeatureSet, reference: FeatureSet, halves: Halves) -> dict[str, list[float]]:
        """Precision and recall of each half, by score's name; the samples' balls have their radii in the whole set."""
        if not samples.has_features or min(len(samples.features), len(reference.features)) <= self.k:
            return {}
        real, fake = reference.features, samples.features
        hits = torch.cat([balls.any(1) for balls in inside(fake, real, radii(real, self.k))])
        reached = torch.cat([by_block(balls, halves) for balls in inside(real, fake, radii(fake, self.k))])
        return {
            "precision": [float(hits[halves.rows(chosen)].double().mean()) for chosen in halves.chosen],
            "recall": [float(reached[:, chosen].any(1).double().mean()) for chosen in halves.chosen],
        }
