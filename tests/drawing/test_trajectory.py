import pytest
import torch
from draw_options import draw_options
from gaussian import SHAPE, exact_prediction

from latentdebias import Diffusion
from latentdebias.drawing.trajectory import Trajectory, chosen_steps
from latentdebias.sampling import LatentSampler
from latentdebias.sampling.timesteps import visited

FLOW = Diffusion("flow", "flow")


def draw(observe, sampler="ddim", steps=10, count=3, batch_size=3, d=FLOW, zero_init=0):
    labels = torch.zeros(count, dtype=torch.long)
    options = draw_options(sampler=sampler, steps=steps, batch_size=batch_size, zero_init=zero_init)
    return torch.cat(list(LatentSampler(exact_prediction(d), d, SHAPE, observe).draw(labels, options)))


def pixels(z):
    return z[:, :3].mul(100).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "euler"])
def test_the_last_estimate_is_the_image(sampler, steps):
    trajectory = Trajectory(steps)
    images = draw(trajectory, sampler, steps)
    torch.testing.assert_close(trajectory.x0[-1], images, rtol=1e-5, atol=1e-5)


def test_estimates_are_those_at_the_chosen_timesteps():
    trajectory = Trajectory(10, columns=4)
    draw(trajectory)
    assert trajectory.chosen == [0, 3, 6, 9]
    assert trajectory.t == visited(FLOW.schedule, 10)[trajectory.chosen].tolist()


@pytest.mark.parametrize(("sampler", "calls"), [("ddim", 10), ("heun", 19)])
def test_every_estimate_is_told_once_and_every_step_has_one_column(sampler, calls):
    seen, trajectory = [], Trajectory(10, columns=10)

    def both(x0, t, step):
        seen.append(step)
        trajectory(x0, t, step)

    draw(both, sampler)
    assert len(seen) == calls
    assert len(trajectory.x0) == 10
    assert trajectory.t == sorted(trajectory.t, reverse=True)
    assert len(set(trajectory.t)) == 10


def test_steps_that_stand_still_show_the_noise():
    trajectory = Trajectory(10, columns=10)
    draw(trajectory, zero_init=2)
    assert torch.equal(trajectory.x0[0], trajectory.x0[1])
    assert not torch.equal(trajectory.x0[1], trajectory.x0[2])


def test_watching_changes_no_image():
    assert torch.equal(draw(None), draw(Trajectory(10)))


def test_only_the_first_images_of_the_first_batch_are_kept():
    trajectory = Trajectory(10, columns=5, rows=2)
    images = draw(trajectory, count=6)
    assert [x0.shape for x0 in trajectory.x0] == [(2, *SHAPE)] * 5
    torch.testing.assert_close(trajectory.x0[-1], images[:2])


@pytest.mark.parametrize(
    ("steps", "columns", "chosen"),
    [(50, 3, [0, 24, 49]), (5, 8, [0, 1, 2, 3, 4]), (1, 8, [0]), (50, 1, [49]), (7, 0, [])],
)
def test_steps_are_chosen_evenly_with_both_ends(steps, columns, chosen):
    assert chosen_steps(steps, columns) == chosen


def test_the_strip_has_a_row_an_image_and_a_column_a_step():
    trajectory = Trajectory(10, columns=5)
    draw(trajectory)
    strip = trajectory.strip(pixels)
    tile, gap = 96, 2
    assert strip.width == 5 * (tile + gap) + gap
    header = strip.height - (3 * (tile + gap) + gap)
    assert 0 < header < tile
    # Every column's title has ink, and every row of tiles starts where the grid's does.
    for column in range(5):
        left = column * (tile + gap)
        assert strip.crop((left, 0, left + tile, header)).convert("L").getextrema()[0] < 128
    corner = strip.getpixel((gap, header + gap))
    assert corner == tuple(pixels(trajectory.x0[0])[0, :, 0, 0].tolist())
