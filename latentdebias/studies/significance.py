"""Whether a setting differs from the baseline: paired over seeds, by an exact permutation test and by a t-test."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

MOST_PAIRS = 16
"""The largest number of pairs whose sign flips are all tried: 65,536 of them."""


@dataclass(frozen=True)
class PairedComparison:
    """The differences of paired scores: their mean, their standard deviation, and two-sided p-values against 0.

    A value is nan where the number of pairs does not define it.
    """

    pairs: int
    mean: float
    spread: float
    p_permutation: float
    p_t: float


def compare_paired(differences: Sequence[float]) -> PairedComparison:
    """The comparison of scores paired by seed, from their differences.

    The permutation test is exact: under the hypothesis of no difference each sign is as likely as the other, and p is
    the share of all 2^n sign flips whose mean is at least as far from 0 as the observed one. So with n pairs p is never
    below 2 / 2^n, which is 0.25 for three. Student's t-test can be smaller, and assumes differences that are normal.
    """
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    spread = float(values.std(ddof=1)) if count > 1 else math.nan
    p_t = float(stats.ttest_1samp(values, 0.0).pvalue) if count > 1 and spread > 0 else math.nan
    mean = float(values.mean()) if count else math.nan
    return PairedComparison(count, mean, spread, _sign_flips(values), p_t)


def _sign_flips(values: np.ndarray) -> float:
    if not 0 < len(values) <= MOST_PAIRS:
        return math.nan
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
    means = np.abs(signs @ values)
    # Flips that give the same sum may differ in its last bits.
    return float(np.mean(means >= abs(values.sum()) * (1 - 1e-12)))
