import pytest
from draw_options import draw_options

from latentdebias import Diffusion
from latentdebias.errors import UserError
from latentdebias.sampling import ModelFacts, check_draw

FLOW = ModelFacts(Diffusion("flow", "flow"), 4, 10)


@pytest.mark.parametrize(
    ("options", "schedule", "num_classes"),
    [
        (draw_options(steps=1000), "linear", 10),
        (draw_options(steps=1001), "flow", 10),
        (draw_options(guidance=1), "linear", 0),
    ],
)
def test_what_can_be_drawn_passes(options, schedule, num_classes):
    check_draw(options, ModelFacts(Diffusion(schedule, "v"), 4, num_classes))


@pytest.mark.parametrize(
    ("options", "num_classes", "words"),
    [
        (draw_options(steps=1001), 10, "has 1000"),
        (draw_options(guidance=1.5), 0, "unconditional"),
        (draw_options(sampler="euler"), 10, "choose sampler ddim"),
        (draw_options(sampler={"name": "ddpm", "variance": "learned"}), 10, "fixed variance"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_built(options, num_classes, words):
    with pytest.raises(UserError, match=words):
        check_draw(options, ModelFacts(Diffusion("linear", "v"), 4, num_classes))


def test_steps_that_stand_still_must_leave_some():
    check_draw(draw_options(steps=5, zero_init=4), FLOW)
    with pytest.raises(UserError, match="5 of 5"):
        check_draw(draw_options(steps=5, zero_init=5), FLOW)


@pytest.mark.parametrize("sampler", ["ddpm", {"name": "ddim", "eta": 0.5}, {"name": "heun", "s_churn": 40.0}])
def test_steps_that_stand_still_are_refused_where_noise_is_added(sampler):
    check_draw(draw_options(zero_init=1, guidance=2.0), FLOW)
    with pytest.raises(UserError, match="adds noise"):
        check_draw(draw_options(zero_init=1, guidance=2.0, sampler=sampler), FLOW)


def test_steps_that_stand_still_are_of_the_flow_path():
    with pytest.raises(UserError, match="not flow"):
        check_draw(draw_options(zero_init=1), ModelFacts(Diffusion("linear", "eps"), 4, 10))
