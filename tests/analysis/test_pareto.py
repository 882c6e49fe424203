"""The Pareto objective, where the network's only weight is a bias in eps and every gradient is known."""

import pytest
import torch
from gaussian_model import Exact, gaussian_latents, inputs_of

from latentdebias.analysis.figures.pareto import Pareto
from latentdebias.diffusion import WEIGHTINGS, Diffusion
from latentdebias.diffusion.pareto.bins import timesteps_in
from latentdebias.errors import UserError

BIAS, BINS, SHARE, COUNT = 1.0, 4, 0.3, 256


@pytest.fixture(scope="module")
def found():
    inputs = inputs_of({"biased": Exact(Diffusion("linear", "eps"), BIAS)}, gaussian_latents(COUNT))
    return Pareto(bins=BINS, regularization=SHARE, blocks=4, samples=(1, 16), repeats=4).find(inputs)


def test_the_objective_is_that_of_the_known_gradients(found):
    assert found.table.columns == ("method", "objective")
    objectives = dict(found.table.rows)
    of_eps_or_v = {"kohya_debiased", "onetrainer_debiased", "min_snr_over_snr"}
    assert objectives.keys() == {*WEIGHTINGS.names(), "ugd", "frank_wolfe"} - of_eps_or_v - {"pareto"}
    diffusion = Diffusion("linear", "eps")
    levels = [diffusion.schedule.level(timesteps_in(diffusion, n, BINS, COUNT), torch.float64) for n in range(BINS)]
    gradients = torch.stack([2 * BIAS * (1 / level.snr).mean() for level in levels])
    penalty = SHARE * (gradients**2).median()
    for name in ("constant", "min_snr", "ugd"):
        w = torch.tensor([row[2] for row in found.others["pareto-weights"].rows if row[0] == name], dtype=torch.float64)
        expected = (w @ gradients) ** 2 + penalty * (w**2).sum()
        assert objectives[name] == pytest.approx(expected.item(), rel=0.05)


def test_no_weighting_is_below_the_solved_weights(found):
    objectives = dict(found.table.rows)
    solved = {name: objectives.pop(name) for name in ("ugd", "frank_wolfe")}
    assert solved["ugd"] == pytest.approx(solved["frank_wolfe"], rel=1e-3)
    assert max(solved.values()) <= min(objectives.values()) * (1 + 1e-3)


def test_weights_sum_to_one_and_intervals_lie_beside(found):
    rows = found.others["pareto-weights"].rows
    for name in dict(found.table.rows):
        assert sum(row[2] for row in rows if row[0] == name) == pytest.approx(1)
    objectives = dict(found.table.rows)
    assert all(low <= objectives[name] <= high for name, low, high in found.others["pareto-intervals"].rows)


def test_weights_solved_from_more_images_deviate_less(found):
    table = found.others["pareto-instability"]
    assert table.columns == ("solver", "samples", "deviation", "low", "high")
    deviations = {row[:2]: row[2] for row in table.rows}
    for solver in ("ugd", "frank_wolfe"):
        assert deviations[solver, 16] < deviations[solver, 1]
    assert all(low < deviation < high for *_, deviation, low, high in table.rows)


def test_too_few_latents_are_refused():
    inputs = inputs_of({"biased": Exact(Diffusion("linear", "eps"), BIAS)}, gaussian_latents(20))
    with pytest.raises(UserError, match="too few for 8 sets of 64"):
        Pareto().find(inputs)
