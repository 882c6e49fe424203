"""The Frechet distance between Gaussians, and its values on halves of the samples."""

import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from tqdm import tqdm

from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.evaluation.moments import Moments

LARGE_DIM = 512
FEW = 20
"""Halves of features with more than `LARGE_DIM` dimensions, seconds each at D = 2048; 20 tell a deviation to 16%."""


def frechet_distance(samples: Moments, reference: Moments) -> float:
    """|mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)), in float64, as torch-fidelity computes it."""
    statistics = [{"mu": each.mean.numpy(), "sigma": each.cov.numpy()} for each in (samples, reference)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def frechet_distances_of_halves(features: Tensor, reference: Moments, halves: Halves) -> list[float]:
    """The distance of each half of features (N, D) to `reference`; of 20 halves at most where D > 512.

    The trace is taken of the symmetric C_r^(1/2) C C_r^(1/2), which has the eigenvalues of C C_r: the general solver of
    the score is the slower one, and its roots of rounding errors are complex. Sums over the blocks are kept, D^2 x 8
    bytes each: 2.1 GB at D = 2048.
    """
    if features.shape[1] > LARGE_DIM:
        halves = halves.first(FEW)
    # About the mean of all, so that the sums of squares of a half do not cancel.
    centre = features.double().mean(0)
    blocks = [features[rows].double() - centre for rows in halves.blocks]
    counts = torch.tensor([len(block) for block in blocks], dtype=torch.float64)
    sums = torch.stack([block.sum(0) for block in blocks])
    squares = torch.stack([block.T @ block for block in blocks]).flatten(1)
    root = _root(reference.cov)
    distances = []
    for chosen in tqdm(halves.chosen.double(), desc="interval", unit="half", leave=False, delay=3):
        count = chosen @ counts
        mean = chosen @ sums / count
        cov = (chosen @ squares).view(root.shape) / (count - 1) - torch.outer(mean, mean) * count / (count - 1)
        trace = torch.linalg.eigvalsh(root @ cov @ root).clamp(min=0).sqrt().sum()
        difference = mean + centre - reference.mean
        distances.append(float(difference @ difference + cov.trace() + reference.cov.trace() - 2 * trace))
    return distances


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
