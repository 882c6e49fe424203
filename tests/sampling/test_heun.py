"""Heun against algorithm 2 of Karras et al. 2022, written out here."""

import math

import numpy as np
import pytest
import torch
from gaussian import integrate, posterior_mean

from latentdebias import Diffusion
from latentdebias.sampling import SAMPLERS, image_generator
from latentdebias.sampling.denoiser import Denoiser
from latentdebias.sampling.heun import Heun


def algorithm_2(levels, round_level, denoise, steps, churn=0.0, tmin=0.0, tmax=math.inf, s_noise=1.0, count=3):
    generators = [image_generator(0, i) for i in range(count)]

    def noise():
        return torch.stack([torch.randn(4, 4, 4, generator=g) for g in generators]).double()

    t = [*[round_level(level) for level in levels], 0.0]
    x = noise() * t[0]
    for i in range(steps):
        gamma = min(churn / steps, math.sqrt(2) - 1) if tmin <= t[i] <= tmax else 0.0
        t_hat = round_level(t[i] + gamma * t[i])
        if t_hat > t[i]:
            x = x + math.sqrt(t_hat**2 - t[i] ** 2) * s_noise * noise()
        d = (x - denoise(x, t_hat)) / t_hat
        following = x + (t[i + 1] - t_hat) * d
        if i < steps - 1:
            d_next = (following - denoise(following, t[i + 1])) / t[i + 1]
            following = x + (t[i + 1] - t_hat) * (d + d_next) / 2
        x = following
    return x


def karras_levels(steps, low, high, rho=7):
    ramp = [i / (steps - 1) for i in range(steps)]
    return [(high ** (1 / rho) + r * (low ** (1 / rho) - high ** (1 / rho))) ** rho for r in ramp]


STOCHASTIC = {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}


@pytest.mark.parametrize("options", [{}, STOCHASTIC], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize(("schedule", "low"), [("linear", 0.0100005), ("cosine", None)])
def test_it_is_the_papers_algorithm_with_levels_rounded_to_the_table(schedule, low, options):
    """Min-SNR's setting: 0.002 to 80 kept inside the table, rho 7, each level rounded to the nearest timestep."""
    d, steps = Diffusion(schedule, "v"), 18
    alpha_bar = d.schedule.alphas_cumprod
    table = ((1 - alpha_bar) / alpha_bar).sqrt()
    if low is not None:
        assert table[0].item() == pytest.approx(low, rel=1e-6)

    def round_level(level):
        return table[(table - level).abs().argmin()].item()

    levels = karras_levels(steps, max(0.002, table[0].item()), min(80, table[-1].item()))
    assert levels[0] == pytest.approx(80)

    def denoise(x, s):
        return posterior_mean(1 / math.sqrt(1 + s**2), s / math.sqrt(1 + s**2), x / math.sqrt(1 + s**2))

    churn = {key.removeprefix("s_"): value for key, value in options.items() if key != "s_noise"}
    expected = algorithm_2(levels, round_level, denoise, steps, s_noise=options.get("s_noise", 1.0), **churn)
    found, _ = integrate(d, {"name": "heun", **options}, steps, count=3)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rounding", ["log_sigma", "sigma"])
def test_on_the_edm_schedule_nothing_is_rounded(rounding):
    d, heun = Diffusion("edm", "edm"), Heun(rounding=rounding)
    levels = heun.levels(d.schedule, 18)
    torch.testing.assert_close(torch.tensor(levels), torch.tensor(karras_levels(18, 0.002, 80)))
    for level in levels:
        assert heun.rounded(d.schedule, level).s == pytest.approx(level, rel=1e-9)


def visited_timesteps(sampler, steps):
    """The timesteps at which the network is asked on the cosine schedule, each once, noisiest first."""
    seen = []

    def predict(z, t, labels):
        seen.append(t.item())
        return torch.zeros_like(z)

    integrate(Diffusion("cosine", "v"), sampler, steps, count=1, predict=predict)
    return list(dict.fromkeys(seen))


def rounded_by_hand(steps, scale):
    """The timesteps of cosine whose `scale`(sigma) is nearest, with the table from the formula of its paper."""
    curve = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha_bar = np.cumprod(1 - np.minimum(1 - curve[1:] / curve[:-1], 0.999))
    sigmas = np.sqrt((1 - alpha_bar) / alpha_bar)
    levels = karras_levels(steps, max(0.002, sigmas[0]), min(80, sigmas[-1]))
    return list(dict.fromkeys(int(np.abs(scale(level) - scale(sigmas)).argmin()) for level in levels))


@pytest.mark.parametrize("steps", [18, 22, 40, 48, 64])
def test_levels_are_rounded_in_sigma_as_min_snr_does_or_in_its_log(steps):
    in_sigma = visited_timesteps({"name": "heun", "rounding": "sigma"}, steps)
    in_log = visited_timesteps("heun", steps)
    assert in_sigma == rounded_by_hand(steps, scale=lambda sigma: sigma)
    assert in_log == rounded_by_hand(steps, scale=np.log)
    assert (in_sigma == in_log) == (steps == 18)


def test_one_step_and_the_range_given():
    d = Diffusion("cosine", "v")
    levels = Heun(sigma_min=0.1, sigma_max=10.0, rho=3.0).levels(d.schedule, 5)
    assert (levels[0], levels[-1]) == (pytest.approx(10), pytest.approx(0.1))
    assert Heun().levels(d.schedule, 1) == [pytest.approx(80)]
    assert integrate(d, "heun", 1)[1] == 1


def test_without_churn_no_noise_is_drawn_after_the_first():
    """On a continuous schedule, where the level found again is not the level to the last bit."""
    diffusion, drawn = Diffusion(schedule="flow", target="flow"), []

    def noise():
        drawn.append(1)
        return torch.ones(1, 2, dtype=torch.float64)

    denoise = Denoiser(lambda z, t, labels: torch.zeros_like(z), diffusion, torch.zeros(1))
    SAMPLERS.build("heun").integrate(denoise, noise, 40)
    assert len(drawn) == 1
