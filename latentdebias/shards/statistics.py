"""Mean and standard deviation of latents per channel, streamed in float64 from posterior moments."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import numpy as np


@dataclass(frozen=True)
class LatentSums:
    """Per channel, over `values` latents z ~ N(mean, exp(logvar)): the sums of E[z] and of E[z^2]."""

    values: int
    first: list[float]
    second: list[float]

    @classmethod
    def of(cls, moments: np.ndarray) -> "LatentSums":
        """The sums over one sample's moments `(2C, h, w)`, mean then log-variance; -inf is that of a certain latent."""
        mean, logvar = np.split(moments.astype(np.float64), 2)
        second = (mean**2 + np.exp(logvar)).sum(axis=(1, 2))
        return cls(mean[0].size, mean.sum(axis=(1, 2)).tolist(), second.tolist())

    @classmethod
    def merge(cls, parts: Iterable["LatentSums"], channels: int) -> "LatentSums":
        """The sums over all `parts`, added in their order, so that the result depends on nothing else."""
        values, first, second = 0, np.zeros(channels), np.zeros(channels)
        for part in parts:
            values, first, second = values + part.values, first + part.first, second + part.second
        return cls(values, first.tolist(), second.tolist())

    def mean(self) -> list[float]:
        return [first / self.values for first in self.first]

    def std(self) -> list[float]:
        """sqrt(E[z^2] - E[z]^2), so the posterior's own variance is included (law of total variance)."""
        # Rounding may leave a channel of one constant a little below no variance.
        variances = [second / self.values - mean**2 for second, mean in zip(self.second, self.mean(), strict=True)]
        return [sqrt(max(variance, 0.0)) for variance in variances]
