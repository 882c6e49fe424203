"""Mean and standard deviation of latents per channel, summed in float64 over posterior moments."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import numpy as np


@dataclass(frozen=True)
class LatentSums:
    """The sums, for each channel, of E[z] and E[z^2] over latent values z ~ N(mean, exp(logvar)).

    `values` is how many values each channel has; `first` are the sums of E[z] and `second` those of E[z^2].
    """

    values: int
    first: list[float]
    second: list[float]

    @classmethod
    def of(cls, moments: np.ndarray) -> "LatentSums":
        """The sums over one view's moments `(2C, h, w)`: mean, then log-variance, which is -inf for a fixed latent."""
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
        """sqrt(E[z^2] - E[z]^2) of each channel; it includes the posteriors' own variance (law of total variance)."""
        # Rounding may make the variance of a constant channel slightly negative.
        variances = [second / self.values - mean**2 for second, mean in zip(self.second, self.mean(), strict=True)]
        return [sqrt(max(variance, 0.0)) for variance in variances]
