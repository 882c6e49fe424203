"""Mean and covariance of features: all that a Frechet distance needs of a set."""

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Moments:
    """mean (D,) and unbiased covariance cov (D, D), float64, of `count` images; None where it was not published."""

    mean: Tensor
    cov: Tensor
    count: int | None


def moments_of(features: Tensor) -> Moments:
    """The moments of features (N, D), in float64.

    Summed here in blocks of rows, because torch-fidelity's `fid_features_to_statistics` sums in the dtype of the
    features, and in float64 copies them whole: 2 x 21 GB for the images of ImageNet.
    """
    count, dim = features.shape
    mean = sum((rows.double().sum(0) for rows in features.split(ROWS_AT_ONCE)), torch.zeros(dim, dtype=torch.float64))
    mean = mean / count
    scatter = torch.zeros(dim, dim, dtype=torch.float64)
    for rows in features.split(ROWS_AT_ONCE):
        centred = rows.double() - mean
        scatter.addmm_(centred.T, centred)
    return Moments(mean, scatter / (count - 1), count)
