"""Solvers of the Pareto problem, on gradients whose best weights are known."""

import pytest
import torch

from latentdebias.diffusion.pareto.solvers import SOLVERS, objective, regularized

BOTH = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)


def linear_system(matrix):
    """The minimum where no weight is 0: (G + lambda I) w = 1, scaled to sum 1."""
    w = torch.linalg.solve(matrix, torch.ones(len(matrix), dtype=matrix.dtype))
    return w / w.sum()


@BOTH
def test_orthogonal_gradients_are_weighted_by_their_inverse_squared_norms(solve):
    norms = torch.tensor([1.0, 2.0, 5.0, 10.0], dtype=torch.float64)
    expected = norms**-2 / (norms**-2).sum()
    torch.testing.assert_close(solve(torch.diag(norms**2)), expected, atol=1e-4, rtol=1e-4)


@BOTH
def test_gradients_that_all_get_a_weight_solve_the_linear_system(solve):
    g = torch.Generator().manual_seed(0)
    gradients = torch.eye(6, dtype=torch.float64) + 0.1 * torch.randn(6, 6, generator=g, dtype=torch.float64)
    matrix = regularized(gradients @ gradients.T, 0.1)
    expected = linear_system(matrix)
    assert expected.min() > 0.01
    torch.testing.assert_close(solve(matrix), expected, atol=1e-4, rtol=1e-4)


@BOTH
def test_the_longer_of_two_parallel_gradients_gets_none(solve):
    gradients = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    weights = solve(gradients @ gradients.T)
    assert weights[0] > 0.999


@BOTH
def test_opposite_gradients_cancel(solve):
    gradients = torch.tensor([[3.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    weights = solve(gradients @ gradients.T)
    torch.testing.assert_close(weights, torch.tensor([0.25, 0.75]).double(), atol=1e-4, rtol=0)


@BOTH
@pytest.mark.parametrize("spread", [1, 1e3])
def test_no_other_weights_are_better(solve, spread):
    """At the minimum on the simplex every slope with weight equals w'Hw, and no slope is below it."""
    g = torch.Generator().manual_seed(1)
    gradients = torch.randn(10, 30, generator=g, dtype=torch.float64) + 0.5
    gradients *= torch.logspace(0, torch.tensor(spread).log10().item() / 2, 10, dtype=torch.float64)[:, None]
    matrix = regularized(gradients @ gradients.T, 0.01)
    weights = solve(matrix)
    assert weights.sum().item() == pytest.approx(1)
    assert weights.min() >= 0
    value = objective(weights, matrix)
    assert (matrix @ weights).min().item() == pytest.approx(value, rel=2e-3)
