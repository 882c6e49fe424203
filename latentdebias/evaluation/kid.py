"""Kernel inception distance."""

import warnings
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metric import METRICS, seeded_cpu_rng


@METRICS.register("kid")
@dataclass(frozen=True)
class KID:
    """Unbiased squared MMD under the kernel (x.y / D + 1)^3, mean over random subsets, in float64.

    Binkowski et al. 2018 (arXiv:1801.01401), Section 4; computed by torchmetrics. The subsets are drawn
    from `seed`, and the global generator is left as it was.
    """

    subsets: PositiveInt = 100
    subset_size: Annotated[int, Field(ge=2)] = 1000
    seed: int = 0

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"kid": mean, "kid_std": deviation over the subsets}; lower is better.

        The subset size shrinks to the smaller set's count where a set is smaller than `subset_size`. Both
        sets then recur whole, or nearly so, and `kid_std` no longer tells the uncertainty.
        """
        subset_size = min(self.subset_size, samples.count, reference.count)
        with warnings.catch_warnings():
            # The warning says that all features are kept in memory, where they are already.
            warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save")
            kid = KernelInceptionDistance(
                nn.Identity(), subsets=self.subsets, subset_size=subset_size, sync_on_compute=False
            )
        kid.update(samples.features.double(), real=False)
        kid.update(reference.features.double(), real=True)
        with seeded_cpu_rng(self.seed):
            mean, std = kid.compute()
        return {"kid": float(mean), "kid_std": float(std)}
