"""Nearest-neighbour balls in feature space, from which precision, recall, density and coverage are made."""

from collections.abc import Iterator

import torch
from torch import Tensor

from latentdebias.evaluation.metrics.halves import Halves

ROWS_AT_ONCE = 1024


def radii(features: Tensor, k: int) -> Tensor:
    """The distance (N,) of each of features (N, D) to its `k`-th nearest neighbour in the set, itself not counted."""
    distances = (torch.cdist(rows, features) for rows in features.split(ROWS_AT_ONCE))
    return torch.cat([rows.kthvalue(k + 1).values for rows in distances])


def inside(points: Tensor, centres: Tensor, radius: Tensor) -> Iterator[Tensor]:
    """In blocks of points: (B, M), whether each lies in the ball of `radius` (M,) about each of `centres` (M, D)."""
    for rows in points.split(ROWS_AT_ONCE):
        yield torch.cdist(rows, centres) <= radius


def holding(centres: Tensor, radius: Tensor, points: Tensor) -> Iterator[Tensor]:
    """As `inside`, in blocks of centres: (B, N), whether the ball about each holds each of `points` (N, D)."""
    for rows, ball in zip(centres.split(ROWS_AT_ONCE), radius.split(ROWS_AT_ONCE), strict=True):
        yield torch.cdist(rows, points) <= ball[:, None]


def by_block(pairs: Tensor, halves: Halves) -> Tensor:
    """Of pairs (B, N) with the N samples: whether any sample of each block is among them, (B, number of blocks)."""
    counts = torch.zeros(len(pairs), len(halves.blocks))
    return counts.index_add_(1, halves.block_of_row(), pairs.float()) > 0
