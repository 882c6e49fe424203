import pytest

from latentdebias import Diffusion
from latentdebias.drawing.image_sampler import DrawOptions, check_draw
from latentdebias.errors import UserError


@pytest.mark.parametrize(
    ("options", "schedule", "num_classes"),
    [
        (DrawOptions(steps=1000), "linear", 10),
        (DrawOptions(steps=1001), "flow", 10),
        (DrawOptions(guidance=1), "linear", 0),
    ],
)
def test_what_can_be_drawn_passes(options, schedule, num_classes):
    check_draw(options, Diffusion(schedule, "v"), num_classes, 4)


@pytest.mark.parametrize(
    ("options", "num_classes", "words"),
    [
        (DrawOptions(steps=1001), 10, "has 1000"),
        (DrawOptions(guidance=1.5), 0, "unconditional"),
        (DrawOptions(sampler="euler"), 10, "choose sampler ddim"),
        (DrawOptions(sampler={"name": "ddpm", "variance": "learned"}), 10, "fixed variance"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_built(options, num_classes, words):
    with pytest.raises(UserError, match=words):
        check_draw(options, Diffusion("linear", "v"), num_classes, 4)


def test_steps_that_stand_still_must_leave_some():
    check_draw(DrawOptions(steps=5, zero_init=4), Diffusion("flow", "flow"), 10, 4)
    with pytest.raises(UserError, match="5 of 5"):
        check_draw(DrawOptions(steps=5, zero_init=5), Diffusion("flow", "flow"), 10, 4)


@pytest.mark.parametrize("sampler", ["ddpm", {"name": "ddim", "eta": 0.5}, {"name": "heun", "s_churn": 40.0}])
def test_steps_that_stand_still_are_refused_where_noise_is_added(sampler):
    flow = Diffusion(schedule="flow", target="flow")
    check_draw(DrawOptions(zero_init=1, guidance=2.0), flow, 10, 4)
    with pytest.raises(UserError, match="adds noise"):
        check_draw(DrawOptions(zero_init=1, guidance=2.0, sampler=sampler), flow, 10, 4)
