"""Nearest-neighbour balls in feature space, from which precision, recall, density and coverage are computed.

The ball about a feature has the distance to its k-th nearest neighbour as its radius.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from latentdebias.evaluation.metrics.halves import Halves

ROWS_AT_ONCE = 1024


def radii(features: Tensor, k: int) -> Tensor:
    """The distance (N,) from each of features (N, D) to its `k`-th nearest neighbour among the others."""
    distances = (torch.cdist(rows, features) for rows in features.split(ROWS_AT_ONCE))
    return torch.cat([rows.kthvalue(k + 1).values for rows in distances])


def inside(points: Tensor, centres: Tensor, radius: Tensor) -> Iterator[Tensor]:
    """Whether points (N, D) are in the balls of `radius` (M,) about centres (M, D): chunks (B, M) of points, bool."""
    for rows in points.split(ROWS_AT_ONCE):
        yield torch.cdist(rows, centres) <= radius


def holding(centres: Tensor, radius: Tensor, points: Tensor) -> Iterator[Tensor]:
    """Whether the balls of `radius` (M,) about centres (M, D) hold points (N, D): chunks (B, N) of balls, bool."""
    for rows, ball in zip(centres.split(ROWS_AT_ONCE), radius.split(ROWS_AT_ONCE), strict=True):
        yield torch.cdist(rows, points) <= ball[:, None]


def by_block(pairs: Tensor, halves: Halves) -> Tensor:
    """Whether each row of pairs (B, N), bool, is True for any of the N samples in a block: (B, number of blocks)."""
    counts = torch.zeros(len(pairs), len(halves.blocks))
    return counts.index_add_(1, halves.block_of_row(), pairs.float()) > 0
