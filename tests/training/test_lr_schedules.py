import itertools
import math

import pytest

from latentdebias.errors import UserError
from latentdebias.training.lr_schedules import LR_SCHEDULES


def shares(spec, at, steps=100):
    schedule = LR_SCHEDULES.build(spec)
    return [schedule.lr_share_at(step, steps) for step in at]


def test_constant_is_one():
    assert shares("constant", [0, 50, 99]) == [1, 1, 1]


@pytest.mark.parametrize(
    "spec", [{"name": "constant"}, {"name": "cosine"}, {"name": "inverse_sqrt", "reference_steps": 9}]
)
def test_warm_up_is_linear_and_ends_at_one(spec):
    assert shares({**spec, "warmup_steps": 4}, range(4)) == pytest.approx([0.25, 0.5, 0.75, 1])


def test_cosine_falls_to_its_final_share():
    assert shares({"name": "cosine", "final": 0.1}, [0, 50, 100, 200]) == pytest.approx([1, 0.55, 0.1, 0.1])
    assert shares({"name": "cosine", "warmup_steps": 20}, [20, 60, 100]) == pytest.approx([1, 0.5, 0])


def test_cosine_never_rises_after_the_warm_up():
    curve = shares({"name": "cosine", "warmup_steps": 10}, range(10, 100))
    assert all(later < earlier for earlier, later in itertools.pairwise(curve))


def test_inverse_sqrt_is_constant_and_then_falls():
    found = shares({"name": "inverse_sqrt", "reference_steps": 10}, [0, 10, 20, 40, 1000])
    assert found == pytest.approx([1, 1, 1 / math.sqrt(2), 0.5, 0.1])


def test_inverse_sqrt_needs_its_reference():
    with pytest.raises(UserError, match="reference_steps"):
        LR_SCHEDULES.build("inverse_sqrt")
