"""Loss weights that make one update good for several tasks, from the inner products of the tasks' gradients.

A task is the loss in one bin of timesteps. For weights w on the simplex and gradients g of B tasks the objective is

    |sum_b w_b g_b|^2 + lambda sum_b w_b^2 = w' (G + lambda I) w,    G_bc = <g_b, g_c>      (Min-SNR, eq. 11)

Where no weight is 0 at the minimum, it is w = (G + lambda I)^-1 1, scaled to sum 1. Each solver takes
H = G + lambda I (B, B) fp64 and gives w (B,) fp64.
"""

from collections.abc import Callable

import torch
from torch import Tensor

MOST_ITERATIONS = 20_000
TOLERANCE = 1e-12


def regularized(gram: Tensor, share: float) -> Tensor:
    """G + lambda I for the inner products `gram` (B, B), where lambda is `share` times the median of their diagonal.

    The median squared gradient norm is the unit because Min-SNR does not print its lambda, and a number that suits one
    network suits no other.
    """
    return gram + share * gram.diagonal().median() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def objective(weights: Tensor, matrix: Tensor) -> float:
    """w' H w for weights (B,) and H (B, B)."""
    return (weights @ matrix @ weights).item()


def frank_wolfe(matrix: Tensor) -> Tensor:
    """The weights of the smallest w' H w, by Frank-Wolfe with pairwise steps and exact line search.

    Each iteration moves weight from the task with the largest slope to that with the smallest (Lacoste-Julien & Jaggi
    2015), until no move would lower the objective by more than 1e-12 of it.
    """
    weights = torch.full((len(matrix),), 1 / len(matrix), dtype=matrix.dtype)
    for _ in range(MOST_ITERATIONS):
        slope = matrix @ weights
        to, away = slope.argmin(), slope.where(weights > 0, -torch.inf).argmax()
        gap = slope[away] - slope[to]
        if gap <= TOLERANCE * (weights @ slope):
            break
        curvature = matrix[to, to] + matrix[away, away] - 2 * matrix[to, away]
        step = torch.minimum(gap / curvature, weights[away])
        weights[to] += step
        # Exactly 0 where all of it moves, so that the task is not chosen again.
        weights[away] = 0.0 if step == weights[away] else weights[away] - step
    return weights


def ugd(matrix: Tensor) -> Tensor:
    """The weights of the smallest w' H w, by unconstrained gradient descent on beta with w = softmax(beta).

    Min-SNR, eq. 12 and 13. The step grows by a tenth after one that lowers the objective, and is halved after one that
    does not.
    """
    scale = matrix.diagonal().mean()
    beta, rate = torch.zeros(len(matrix), dtype=matrix.dtype), 1.0
    weights = beta.softmax(dim=0)
    best = weights @ matrix @ weights / scale
    for _ in range(MOST_ITERATIONS):
        slope = matrix @ weights / scale
        proposed = beta - rate * 2 * weights * (slope - weights @ slope)
        candidate = proposed.softmax(dim=0)
        value = candidate @ matrix @ candidate / scale
        if value >= best:
            rate /= 2
            if rate < TOLERANCE:
                break
            continue
        enough = best - value < TOLERANCE * best
        beta, weights, best, rate = proposed, candidate, value, rate * 1.1
        if enough:
            break
    return weights


SOLVERS: dict[str, Callable[[Tensor], Tensor]] = {"frank_wolfe": frank_wolfe, "ugd": ugd}
