"""The curves of schedules and weightings."""

import math

import pytest
from scipy.stats import norm

from latentdebias.analysis.figures.curves import Curves
from latentdebias.analysis.inputs import Inputs
from latentdebias.diffusion import SCHEDULES, TIMESTEP_SAMPLERS, WEIGHTINGS
from latentdebias.errors import UserError


def find(**options):
    built = {
        "schedule": tuple(map(SCHEDULES.build, options.get("schedule", ("linear",)))),
        "weighting": tuple(map(WEIGHTINGS.build, options["weighting"])) if "weighting" in options else None,
        "space": options.get("space", ("eps",)),
        "timesteps": TIMESTEP_SAMPLERS.build(options.get("timesteps", "uniform")),
        "config": options.get("config", ()),
    }
    return Curves(**built).find(Inputs())


def weights(**options):
    found = find(**options)
    assert found.table.columns == ("schedule", "weighting", "space", "t", "log_snr", "weight")
    return found.table.rows


def test_weights_are_the_published_formulas_in_every_space():
    formulas = {
        ("debias", "eps"): lambda snr: snr**-0.5,
        ("debias", "x0"): lambda snr: snr**0.5,
        ("debias", "v"): lambda snr: snr**0.5 / (snr + 1),
        ("min_snr", "eps"): lambda snr: min(5 / snr, 1),
        ("min_snr", "x0"): lambda snr: min(snr, 5),
        ("min_snr", "v"): lambda snr: min(snr, 5) / (snr + 1),
    }
    rows = weights(weighting=["debias", "min_snr"], space=("eps", "x0", "v"))
    assert len(rows) == 6000
    for _, weighting, space, _, log_snr, weight in rows:
        assert weight == pytest.approx(formulas[weighting, space](math.exp(log_snr)), rel=1e-6)


def test_every_weighting_that_the_schedule_has_is_there_by_default():
    names = {schedule: {row[1] for row in weights(schedule=(schedule,))} for schedule in ("cosine", "flow")}
    assert names["cosine"] == set(WEIGHTINGS.names()) - {"pareto"}
    assert names["flow"] == names["cosine"] - {"vlb"}
    with pytest.raises(UserError, match="discrete"):
        weights(schedule=("flow",), weighting=["vlb"])


def test_ends_without_a_finite_snr_are_left_out():
    rows = weights(schedule=({"name": "linear", "zero_terminal_snr": True}, "flow"), weighting=["debias"])
    assert len(rows) == 999 + 999
    assert all(math.isfinite(number) for row in rows for number in row[3:])


def effective(finding, label):
    rows = [row for row in finding.others["curves-effective"].rows if row[0] == label]
    return [row[5] for row in rows], [row[6] for row in rows], [row[7] for row in rows]


def test_effective_weights_are_density_times_weight_and_integrate_to_1():
    """Log-normal noise levels give v the density of log SNR as its weight, where the weight on v is 1."""
    logit_normal = {"name": "log_normal", "mean": -0.5, "std": 0.8}
    found = find(schedule=("edm",), weighting=[{"name": "constant", "space": "v"}, "debias"], timesteps=logit_normal)
    log_snr, density, weight = effective(found, "constant space v")
    assert sum(weight) * (log_snr[0] - log_snr[1]) == pytest.approx(1, abs=1e-3)
    for x, p, w in zip(log_snr, density, weight, strict=True):
        if abs(x - 1) < 3:
            assert p == pytest.approx(norm.pdf(x, 1, 1.6), rel=0.02)
            assert w == pytest.approx(p, rel=0.02)
    _, density, debias = effective(found, "debias")
    on_v = [math.exp(x / 2) / (1 + math.exp(x)) for x in log_snr]
    total = sum(p * w for p, w in zip(density, on_v, strict=True)) * (log_snr[0] - log_snr[1])
    middle = len(log_snr) // 2
    assert debias[middle] == pytest.approx(density[middle] * on_v[middle] / total, rel=1e-3)


def test_configs_that_are_one_objective_are_said_to_be():
    """Flow matching of the velocity is eps with the weight of its conversion, whatever the schedule says of it."""
    given = ("recipes/flow_matching", "recipes/sit", "recipes/edm2")
    found = find(weighting=["debias"], config=given)
    assert "recipes/flow_matching and recipes/sit are one objective up to variance" in found.line
    assert "edm2" not in found.line
    rows = found.others["curves-effective"].rows
    assert list(dict.fromkeys(row[:5] for row in rows if row[0] == "recipes/edm2")) == [
        ("recipes/edm2", "edm", "edm", "edm2_uncertainty", "log_normal mean -0.4 std 1.0")
    ]
