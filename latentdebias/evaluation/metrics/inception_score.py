"""Inception score."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveInt
from torch import nn
from torchmetrics.image.inception import InceptionScore as TorchmetricsInceptionScore

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.half_samples import HalfSamples
from latentdebias.evaluation.metrics.metric import METRICS, Better, measure_each_half_sample, seeded_cpu_rng

# The score of a split cannot exceed the number of its samples, so small splits would cap it.
SMALLEST_SPLIT = 100


@METRICS.register("inception_score")
@dataclass(frozen=True)
class InceptionScore:
    """exp(E_x KL(p(y|x) || p(y))) of the extractor's class probabilities, mean over random splits, in float64.

    Salimans et al. 2016 (arXiv:1606.03498), Section 4; computed by torchmetrics. `seed` determines the permutation of
    the samples; the state of torch's global generator is restored.
    """

    better: ClassVar[dict[str, Better]] = {"inception_score": "higher"}
    splits: PositiveInt = 10
    seed: int = 0

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"inception_score": mean, "inception_score_std": deviation over the splits}; higher is better.

        The number of splits is reduced so that each holds at least 100 samples. A single split has no deviation,
        and its key is absent. Empty where the extractor has no classes.
        """
        if samples.logits.shape[1] == 0:
            return {}
        splits = max(1, min(self.splits, samples.count // SMALLEST_SPLIT))
        with warnings.catch_warnings():
            # The warning says that all features are kept in memory, where they are already.
            warnings.filterwarnings("ignore", message="Metric `InceptionScore` will save")
            # torchmetrics computes the deviation of a single split too, of which torch warns.
            warnings.filterwarnings("ignore", message=r"std\(\): degrees of freedom")
            score = TorchmetricsInceptionScore(nn.Identity(), splits=splits, sync_on_compute=False)
            # In float32 a confident logit underflows to probability 0, and the score to 0 * inf = nan.
            score.update(samples.logits.double())
            with seeded_cpu_rng(self.seed):
                mean, std = score.compute()
        scores = {"inception_score": float(mean)}
        if splits > 1:
            scores["inception_score_std"] = float(std)
        return scores

    def measure_half_samples(
        self, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples
    ) -> dict[str, list[float]]:
        """The Inception score of each half, and its deviation where it has one, by score's name."""
        # Half samples of a set without its features are quicker to make.
        return measure_each_half_sample(self, samples.without_features(), reference, halves)
