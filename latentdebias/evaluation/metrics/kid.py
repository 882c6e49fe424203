"""Kernel inception distance (KID)."""

import warnings
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance, poly_kernel

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.half_samples import HalfSamples
from latentdebias.evaluation.metrics.metric import METRICS, Better, seeded_cpu_rng

ROWS_AT_ONCE = 1024


@METRICS.register("kid")
@dataclass(frozen=True)
class KID:
    """Unbiased squared MMD under the kernel (x.y / D + 1)^3, mean over random subsets, in float64.

    Binkowski et al. 2018 (arXiv:1801.01401), Section 4; computed by torchmetrics. `seed` determines the subsets; the
    state of torch's global generator is restored.
    """

    better: ClassVar[dict[str, Better]] = {"kid": "lower"}
    subsets: PositiveInt = 100
    subset_size: Annotated[int, Field(ge=2)] = 1000
    seed: int = 0

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"kid": mean, "kid_std": deviation over the subsets}; lower is better.

        Subsets are no larger than the smaller set. Where a set has fewer than `subset_size` images, every subset
        therefore holds all of the smaller set, and `kid_std` no longer measures the uncertainty. Empty where the
        reference has no features, only moments.
        """
        if not reference.has_features:
            return {}
        subset_size = min(self.subset_size, samples.count, reference.count)
        with warnings.catch_warnings():
            # The warning says that all features are kept in memory, where they are already.
            warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save")
            kid = KernelInceptionDistance(
                nn.Identity(), subsets=self.subsets, subset_size=subset_size, sync_on_compute=False
            )
        kid.update(samples.features.to(samples.device).double(), real=False)
        kid.update(reference.features.to(samples.device).double(), real=True)
        with seeded_cpu_rng(self.seed):
            mean, std = kid.compute()
        return {"kid": float(mean), "kid_std": float(std)}

    def measure_half_samples(
        self, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples
    ) -> dict[str, list[float]]:
        """The squared MMD of each half, without the term of the reference alone, which is the same for all halves.

        Every pair of images counts, through sums over the blocks: random subsets would add a spread of their own.
        """
        if not reference.has_features:
            return {}
        fake, real, block = (
            each.to(samples.device) for each in (samples.features, reference.features, halves.block_of_row())
        )
        within = fake.new_zeros(len(halves.blocks), len(halves.blocks), dtype=torch.float64)
        across, own = fake.new_zeros(2, len(halves.blocks), dtype=torch.float64)
        for rows, of_rows in zip(fake.split(ROWS_AT_ONCE), block.split(ROWS_AT_ONCE), strict=True):
            kernel = poly_kernel(rows, fake).double()
            within.index_add_(0, of_rows, _sums_by_block(kernel, block, len(within)))
            across.index_add_(0, of_rows, poly_kernel(rows, real).double().mean(1))
        # k(x, x) is left out of the unbiased estimate.
        own.index_add_(0, block, (fake.double().square().mean(1) + 1) ** 3)
        within, across, own = within.cpu(), across.cpu(), own.cpu()
        counts = torch.tensor([len(rows) for rows in halves.blocks], dtype=torch.float64)
        return {"kid": [_squared_mmd(half, within, own, across, counts) for half in halves.chosen.double()]}


def _sums_by_block(kernel: Tensor, block: Tensor, num_blocks: int) -> Tensor:
    """The sums of a kernel's columns over each block: (B, N) -> (B, number of blocks)."""
    return kernel.new_zeros(len(kernel), num_blocks).index_add_(1, block, kernel)


def _squared_mmd(half: Tensor, within: Tensor, own: Tensor, across: Tensor, counts: Tensor) -> float:
    count = half @ counts
    return float((half @ within @ half - half @ own) / (count * (count - 1)) - 2 * (half @ across) / count)
