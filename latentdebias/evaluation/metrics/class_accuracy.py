"""Class accuracy: do class-conditional samples show the class that was asked for?"""

from dataclasses import dataclass
from typing import ClassVar

from torchmetrics.functional.classification import multiclass_accuracy

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.evaluation.metrics.metric import METRICS, Better, measure_each_half


@METRICS.register("class_accuracy")
@dataclass(frozen=True)
class ClassAccuracy:
    """Share of the samples whose largest logit is that of the class they were drawn for."""

    better: ClassVar[dict[str, Better]] = {"class_accuracy": "higher"}

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"class_accuracy": share in [0, 1]}; higher is better.

        Empty without labels, and where the extractor's classes are not as many as the labels': Inception's
        1008 outputs, say, are no 1000 ImageNet labels.
        """
        num_logits = samples.logits.shape[1]
        if samples.labels is None or samples.num_classes != num_logits:
            return {}
        share = multiclass_accuracy(samples.logits, samples.labels, num_classes=num_logits, average="micro")
        return {"class_accuracy": float(share)}

    def measure_halves(self, samples: FeatureSet, reference: FeatureSet, halves: Halves) -> dict[str, list[float]]:
        """As `MeasuresHalves.measure_halves`; of what it needs alone, which is quicker to take halves of."""
        return measure_each_half(self, samples.without_features(), reference, halves)
