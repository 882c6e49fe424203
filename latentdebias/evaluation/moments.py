"""Mean and covariance of features, from which Frechet distances are computed."""

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and unbiased covariance (D, D) of features, float64.

    `count` is the number of images; None where it was not published.
    """

    mean: Tensor
    cov: Tensor
    count: int | None


def moments_of(features: Tensor) -> Moments:
    """The mean and covariance of features (N, D), in float64.

    The sums go over chunks of rows, because torch-fidelity's `fid_features_to_statistics` sums in the dtype of the
    features, and float64 copies of all features would take 2 x 21 GB for the images of ImageNet.
    """
    count, dim = features.shape
    mean = sum((rows.double().sum(0) for rows in features.split(ROWS_AT_ONCE)), torch.zeros(dim, dtype=torch.float64))
    mean = mean / count
    scatter = torch.zeros(dim, dim, dtype=torch.float64)
    for rows in features.split(ROWS_AT_ONCE):
        centred = rows.double() - mean
        scatter.addmm_(centred.T, centred)
    return Moments(mean, scatter / (count - 1), count)
