"""Class accuracy: whether class-conditional samples show the class that was asked for."""

from dataclasses import dataclass
from typing import ClassVar

from torchmetrics.functional.classification import multiclass_accuracy

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.half_samples import HalfSamples
from latentdebias.evaluation.metrics.metric import METRICS, Better, measure_each_half_sample


@METRICS.register("class_accuracy")
@dataclass(frozen=True)
class ClassAccuracy:
    """The share of samples whose largest logit is that of the class they were drawn for."""

    better: ClassVar[dict[str, Better]] = {"class_accuracy": "higher"}

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"class_accuracy": share in [0, 1]}; higher is better.

        Empty without labels, and where the extractor has another number of classes than the labels: Inception,
        for example, has 1008 outputs, which do not match ImageNet's 1000 labels.
        """
        num_logits = samples.logits.shape[1]
        if samples.labels is None or samples.num_classes != num_logits:
            return {}
        share = multiclass_accuracy(samples.logits, samples.labels, num_classes=num_logits, average="micro")
        return {"class_accuracy": float(share)}

    def measure_half_samples(
        self, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples
    ) -> dict[str, list[float]]:
        """The class accuracy of each half, by score's name."""
        # Half samples of a set without its features are quicker to make.
        return measure_each_half_sample(self, samples.without_features(), reference, halves)
