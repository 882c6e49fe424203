"""Errors against t, on Gaussian data where each is known."""

import pytest
import torch
from gaussian import MU, S
from gaussian_model import Exact, gaussian_latents, inputs_of

from latentdebias.analysis.errors_by_t import Mean, spread_timesteps
from latentdebias.analysis.figures.error_by_t import ErrorByT
from latentdebias.diffusion import Diffusion


@pytest.fixture(scope="module")
def latents():
    return gaussian_latents(2000)


def expected(diffusion, t, bias):
    """The exact errors of eps, x0 and the target: the posterior's variance, and the bias."""
    level = diffusion.schedule.level(torch.tensor(t), torch.float64)
    variance = S**2 * level.sigma**2 / (level.alpha**2 * S**2 + level.sigma**2)
    eps = variance * level.snr + bias**2
    return eps, eps / level.snr, eps * (diffusion.target.det(level) / level.alpha) ** 2


@pytest.mark.parametrize(
    ("schedule", "target"), [("linear", "eps"), ("linear", "v"), ("cosine", "x0"), ("flow", "flow"), ("linear", "edm")]
)
def test_errors_are_those_of_the_posterior(schedule, target, latents):
    diffusion = Diffusion(schedule, target)
    inputs = inputs_of({"exact": Exact(diffusion), "biased": Exact(diffusion, bias=0.1)}, latents)
    found = ErrorByT(points=6, tail_points=3).find(inputs)
    assert found.table.columns == ("model", "t", "error_eps", "error_x0", "error_target")
    rows = {name: [row for row in found.table.rows if row[0] == name] for name in ("exact", "biased", "initial")}
    assert {len(each) for each in rows.values()} == {len(rows["exact"])}
    for name, bias in {"exact": 0.0, "biased": 0.1}.items():
        for _, t, *errors in rows[name]:
            torch.testing.assert_close(
                torch.tensor(errors), torch.stack(expected(diffusion, t, bias)).float(), rtol=0.05, atol=0
            )


def test_the_untrained_guess_takes_z_for_eps(latents):
    diffusion = Diffusion("linear", "eps")
    found = ErrorByT(points=5, tail_points=2).find(inputs_of({"exact": Exact(diffusion)}, latents))
    for _, t, eps, x0, target in (row for row in found.table.rows if row[0] == "initial"):
        level = diffusion.schedule.level(torch.tensor(t), torch.float64)
        error = level.alpha**2 * (MU**2 + S**2) + (1 - level.sigma) ** 2
        assert eps == pytest.approx(float(error), rel=0.05)
        assert x0 == pytest.approx(eps / float(level.snr))
        assert target == pytest.approx(eps)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    g = torch.Generator().manual_seed(0)
    means = [Mean.of(torch.randn(200, generator=g, dtype=torch.float64) + 3) for _ in range(1000)]
    assert 0.93 < sum(mean.low < 3 < mean.high for mean in means) / 1000 < 0.97


def test_intervals_lie_beside_the_errors(latents):
    found = ErrorByT(points=4, tail_points=2).find(inputs_of({"exact": Exact(Diffusion("linear", "v"))}, latents))
    table = found.others["error-by-t-intervals"]
    assert table.columns == ("model", "t", "quantity", "low", "high")
    errors = {
        (row[0], row[1], name): row[2 + i] for row in found.table.rows for i, name in enumerate(("eps", "x0", "target"))
    }
    assert len(errors) == len(table.rows)
    assert all(low < errors[model, t, quantity] < high for model, t, quantity, low, high in table.rows)


@pytest.mark.parametrize("schedule", ["linear", "flow"])
def test_timesteps_are_spread_to_the_last_one(schedule):
    diffusion = Diffusion(schedule, "v")
    tail = diffusion.schedule.to_unit(spread_timesteps(diffusion, 20, 0.95).double())
    assert len(tail) == 20
    assert tail.min() >= 0.95
    assert tail.max() > 0.99
