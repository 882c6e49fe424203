"""Timestep densities against the distribution functions of their papers, and continuous schedules."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from latentdebias import Diffusion
from latentdebias.diffusion.schedules import Flow
from latentdebias.errors import UserError

U = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000


def positions(timesteps, schedule="trig"):
    d = Diffusion(schedule, "v", timesteps=timesteps)
    return d.timesteps.positions(U, torch.zeros_like(U), 1, d.schedule).sort().values


def test_cosmap_has_the_density_of_its_weighting():
    """d/dt of the distribution function is 2 / (pi (1 - 2 t + 2 t^2)): arctan(2 t - 1) between -pi/4 and pi/4."""
    t = positions("cosmap")
    torch.testing.assert_close(torch.atan(2 * t - 1) * 2 / math.pi + 0.5, U, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.8, 1.29])
def test_mode_is_sd3s_map(scale):
    expected = [1 - u - scale * (math.cos(math.pi / 2 * u) ** 2 - 1 + u) for u in U.tolist()]
    torch.testing.assert_close(
        positions({"name": "mode", "scale": scale}), torch.tensor(expected).double().sort().values
    )


def test_a_mode_that_is_no_density_is_refused():
    with pytest.raises(UserError, match="scale"):
        Diffusion("trig", "v", timesteps={"name": "mode", "scale": 2.0})


@pytest.mark.parametrize(("a", "b"), [(1.5, 1.0), (0.5, 0.5), (2.0, 5.0), (0.3, 7.0)])
def test_beta_has_the_quantiles_of_the_beta_distribution(a, b):
    expected = torch.from_numpy(stats.beta.ppf(U.numpy(), a, b))
    torch.testing.assert_close(positions({"name": "beta", "a": a, "b": b}), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("schedule", ["trig", "flow", "edm", "cosine"])
def test_laplace_is_laplace_in_log_snr_on_every_schedule(schedule):
    d = Diffusion(schedule, "v", timesteps={"name": "laplace", "mu": 1.0, "b": 0.6})
    t = d.schedule.from_unit(d.timesteps.positions(U, U, 1, d.schedule))
    log_snr = d.schedule.level(t, torch.float64).log_snr.sort().values
    expected = stats.laplace.ppf(U.numpy(), 1.0, 0.6)
    close = np.abs(expected - 1.0) < 3
    np.testing.assert_allclose(log_snr.numpy()[close], expected[close], atol=0.02 if schedule == "cosine" else 1e-6)


def test_the_laplace_schedule_is_uniform_time_on_the_laplace_density():
    d = Diffusion({"name": "laplace", "mu": 0.5, "b": 0.7}, "v")
    log_snr = d.schedule.level(U, torch.float64).log_snr.flip(0)
    np.testing.assert_allclose(log_snr.numpy(), stats.laplace.ppf(U.numpy(), 0.5, 0.7), atol=1e-9)


def test_speed_draws_the_last_part_k_times_less_often():
    t = positions({"name": "speed", "k": 5.0, "tau": 0.7})
    below = (t < 0.7).double().mean().item()
    assert below == pytest.approx(5 * 0.7 / (5 * 0.7 + 0.3), abs=1e-4)
    inside = t[t < 0.7]
    torch.testing.assert_close(inside, torch.linspace(0, 0.7, len(inside), dtype=torch.float64), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("schedule", "tau"), [("linear", 0.7), ("cosine", 0.98), ("edm", 0.84)])
def test_speed_finds_where_sigma_grows_by_less_than_a_twentieth(schedule, tau):
    t = positions({"name": "speed", "tau": "auto"}, schedule)
    torch.testing.assert_close(t, positions({"name": "speed", "tau": tau}, schedule), rtol=0, atol=5e-3)
    level = Diffusion(schedule, "v").schedule.level_and_rate(Diffusion(schedule, "v").schedule.grid(), torch.float64)
    growth = level.sigma * level.alpha**2 * level.rate / 2
    assert growth[int(tau * len(growth)) - 20] > 0.05 > growth[int(tau * len(growth)) + 10]


def test_extreme_uniforms_stay_on_the_schedule():
    edges = torch.tensor([0.0, 1 - 2**-24])
    for name in ("mode", "cosmap", "laplace", "beta", "speed"):
        t = Diffusion("linear", timesteps=name).sample_timesteps(edges, torch.arange(2), 2)
        assert ((t >= 0) & (t <= 999)).all(), name


@pytest.mark.parametrize(
    "spec",
    [
        "trig",
        {"name": "trig", "shift": 4.0},
        "laplace",
        {"name": "laplace", "mu": 1.0, "b": 1.5},
        "flow",
        {"name": "flow", "shift": 3.0},
        "edm",
    ],
)
def test_the_rate_of_log_snr_is_its_derivative_and_levels_are_found_again(spec):
    schedule = Diffusion(spec, "v").schedule
    t = torch.linspace(0.02, 0.98, 96, dtype=torch.float64, requires_grad=True)
    level = schedule.level(t, torch.float64)
    [slope] = torch.autograd.grad(level.log_snr.sum(), t)
    torch.testing.assert_close(schedule.log_snr_rate(t.detach(), torch.float64), -slope)
    torch.testing.assert_close(schedule.unit_at(level.ratio.detach()), t.detach())
    torch.testing.assert_close(schedule.from_model_time(schedule.model_time(t)), t)


def test_trig_is_a_quarter_of_a_circle():
    d, t = Diffusion("trig", "v"), torch.tensor([0.0, 1 / 3, 0.5, 1.0])
    torch.testing.assert_close(
        d.alpha(t), torch.tensor([1.0, math.cos(math.pi / 6), 0.5**0.5, 0.0]), rtol=1e-6, atol=1e-7
    )
    torch.testing.assert_close(d.sigma(t), torch.tensor([0.0, 0.5, 0.5**0.5, 1.0]), rtol=1e-6, atol=1e-7)


def test_the_dimension_shift_follows_the_shape_of_the_latents():
    auto = Diffusion({"name": "flow", "shift": 2.0}, "flow").schedule
    assert Flow(shift="auto").for_latents((32, 16, 16)) == Flow(shift=math.sqrt(32 * 16 * 16 / 4096))
    assert auto.for_latents((32, 16, 16)) == auto
    with pytest.raises(UserError, match=r"data\.latent_shape"):
        Diffusion({"name": "flow", "shift": "auto"}, "flow")
