"""The Frechet distance between Gaussians, and its values on halves of the samples."""

import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from tqdm import tqdm

from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.evaluation.moments import Moments

LARGE_DIM = 512
FEW = 20
"""How many halves of features of more than `LARGE_DIM` dimensions are measured.

Each half takes seconds at D = 2048, and 20 halves give a standard deviation to within 16%.
"""


def frechet_distance(samples: Moments, reference: Moments) -> float:
    """The Frechet distance |mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)), in float64, computed by torch-fidelity."""
    statistics = [{"mu": each.mean.numpy(), "sigma": each.cov.numpy()} for each in (samples, reference)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def frechet_distances_of_halves(features: Tensor, reference: Moments, halves: Halves) -> list[float]:
    """The Frechet distance of each half of features (N, D) to `reference`; of the first 20 halves where D > 512.

    The trace is computed from the symmetric matrix C_r^(1/2) C C_r^(1/2), which has the same eigenvalues as C C_r: the
    symmetric solver is faster than the general one behind `frechet_distance`, and rounding gives it no complex values.
    The sums over each block of `halves` are kept, D^2 x 8 bytes each: 2.1 GB at D = 2048.
    """
    if features.shape[1] > LARGE_DIM:
        halves = halves.first(FEW)
    # Subtracting the mean of all features avoids cancellation in the covariance of a half.
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
    """The symmetric square root of a covariance (D, D)."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
