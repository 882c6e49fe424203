"""The curves of schedules and weightings."""

import math

import pytest

from latentdebias.analysis.figures.curves import Curves
from latentdebias.analysis.inputs import Inputs
from latentdebias.diffusion import SCHEDULES, WEIGHTINGS
from latentdebias.errors import UserError


def weights(**options):
    built = {
        "schedule": tuple(map(SCHEDULES.build, options.get("schedule", ("linear",)))),
        "weighting": tuple(map(WEIGHTINGS.build, options["weighting"])) if "weighting" in options else None,
        "space": options.get("space", ("eps",)),
    }
    found = Curves(**built).find(Inputs())
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
