"""DDPM and DDIM against the formulas of their papers, and against diffusers where its timesteps are ours."""

import diffusers
import numpy as np
import pytest
import torch
from gaussian import S, exact_prediction, first_noise, integrate

from latentdebias import Diffusion
from latentdebias.sampling import image_generator
from latentdebias.sampling.timesteps import visited

BETAS = np.linspace(1e-4, 0.02, 1000)
ALPHA_BAR = torch.from_numpy(np.cumprod(1 - BETAS))


def respaced(steps, num_timesteps=1000):
    """ADM's space_timesteps for one section, low to high: a stride is added up in floating point, each sum rounded."""
    stride, position, kept = (num_timesteps - 1) / (steps - 1), 0.0, []
    for _ in range(steps):
        kept.append(round(position))
        position += stride
    return kept


def values_of(z):
    """Some values of a learned variance in [-1, 1]."""
    return torch.sin(5 * z)


def textbook_ddpm(predict_x0, steps, variance, count=3):
    """Ho et al. 2020, algorithm 2, with betas recomputed for the timesteps kept (Nichol & Dhariwal 2021, eq. 19)."""
    times = respaced(steps)
    kept = ALPHA_BAR[times]
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    beta = 1 - kept / before
    generators = [image_generator(0, i) for i in range(count)]

    def noise():
        return torch.stack([torch.randn(4, 4, 4, generator=g) for g in generators]).double()

    z = noise()
    for i in reversed(range(steps)):
        x0 = predict_x0(z, torch.tensor(times[i]))
        mean = before[i].sqrt() * beta[i] / (1 - kept[i]) * x0
        mean = mean + (1 - beta[i]).sqrt() * (1 - before[i]) / (1 - kept[i]) * z
        posterior = (1 - before[i]) / (1 - kept[i]) * beta[i]
        share = (values_of(z) + 1) / 2
        chosen = {
            "fixed_small": posterior,
            "fixed_large": beta[i],
            "learned": torch.exp(share * beta[i].log() + (1 - share) * posterior.clamp(min=1e-30).log()),
        }[variance]
        z = mean if i == 0 else mean + chosen**0.5 * noise()
    return z


@pytest.mark.parametrize(
    ("target", "variance", "steps"),
    [
        ("eps", "fixed_small", 10),
        ("eps", "fixed_large", 30),
        ("eps", "learned", 250),
        ("x0", "fixed_small", 30),
        ("x0", "learned", 10),
        ("v", "fixed_large", 10),
        ("v", "learned", 30),
        ("edm", "fixed_small", 250),
        ("edm", "learned", 30),
    ],
)
def test_ddpm_is_the_algorithm_of_its_paper_on_respaced_betas(target, variance, steps):
    d = Diffusion("linear", target, variance="learned_range" if variance == "learned" else "fixed")
    exact = exact_prediction(d)

    def network(z, t, labels):
        prediction = exact(z, t, labels)
        return torch.cat([prediction, values_of(z)], 1) if variance == "learned" else prediction

    def predict_x0(z, t):
        return d.to_x0(exact(z, t, None), z, t.expand(len(z)))

    found, _ = integrate(d, {"name": "ddpm", "variance": variance}, steps, count=3, predict=network)
    torch.testing.assert_close(found, textbook_ddpm(predict_x0, steps, variance), rtol=1e-7, atol=1e-7)


def test_the_variance_left_open_is_the_learned_one_where_there_is_one():
    learned, fixed = Diffusion("linear", "v", variance="learned_range"), Diffusion("linear", "v")

    def network(z, t, labels):
        return torch.cat([exact_prediction(learned)(z, t, labels), values_of(z)], 1)

    def draw(variance):
        return integrate(learned, {"name": "ddpm", "variance": variance}, 10, predict=network)[0]

    assert draw(None).equal(draw("learned"))
    assert not torch.allclose(draw("learned"), draw("fixed_small"))
    open_, small = (integrate(fixed, {"name": "ddpm", "variance": v}, 10)[0] for v in (None, "fixed_small"))
    assert open_.equal(small)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_ddpm_equals_diffusers_on_the_same_timesteps(variance, clip):
    d, steps = Diffusion("linear", "eps"), 50
    scheduler = diffusers.DDPMScheduler(
        variance_type=variance, clip_sample=clip is not None, clip_sample_range=clip or 1.0
    )
    scheduler.set_timesteps(timesteps=visited(d.schedule, steps, "linspace").tolist())
    generators = [image_generator(0, i) for i in range(3)]
    z = torch.stack([torch.randn(4, 4, 4, generator=g) for g in generators])
    for t in scheduler.timesteps:
        z = scheduler.step(exact_prediction(d)(z, t, None).float(), t, z, generator=generators).prev_sample
    found, _ = integrate(d, {"name": "ddpm", "variance": variance, "clip": clip}, steps, count=3)
    assert clip is None or found.abs().max() <= 1.01 * clip
    torch.testing.assert_close(found.float(), z, rtol=1e-3, atol=1e-3)


def test_the_best_learned_variance_is_exact_at_any_number_of_steps():
    """p(z' | z) of Gaussian data is Gaussian, so with its own variance, ten steps lose nothing."""
    d, steps = Diffusion("linear", "v", variance="learned_range"), 10
    t = visited(d.schedule, steps, "linspace")
    following = dict(zip(t.tolist(), [*t[1:].tolist(), None], strict=True))

    def network(z, time, labels):
        prediction, next_t = exact_prediction(d)(z, time, labels), following[time.item()]
        if next_t is None:
            return torch.cat([prediction, torch.zeros_like(z)], 1)
        here, there = ALPHA_BAR[time], ALPHA_BAR[next_t]
        beta = 1 - here / there
        beta_tilde = beta * (1 - there) / (1 - here)
        variance_of_x0 = S**2 * (1 - here) / (here * S**2 + 1 - here)
        best = beta_tilde + (there.sqrt() * beta / (1 - here)) ** 2 * variance_of_x0
        share = (best / beta_tilde).log() / (beta / beta_tilde).log()
        return torch.cat([prediction, torch.full_like(z, 2 * share - 1)], 1)

    learned, _ = integrate(d, {"name": "ddpm", "variance": "learned"}, steps, count=400, predict=network)
    small, _ = integrate(d, {"name": "ddpm", "variance": "fixed_small"}, steps, count=400, predict=network)
    assert learned.var().item() == pytest.approx(S**2, abs=0.01)
    assert small.var().item() < 0.8 * S**2


@pytest.mark.parametrize("steps", [30, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_the_update_of_its_paper_also_where_steps_do_not_divide_the_schedule(steps, eta):
    """Song et al. 2021, eq. 12 and 16; diffusers' own DDIMScheduler misses these timesteps at 30 steps."""
    d = Diffusion("linear", "eps")
    times = torch.arange(1000, 0, -1000 / steps).round().long() - 1
    assert len(times) == steps
    generators = [image_generator(0, i) for i in range(4)]

    def noise():
        return torch.stack([torch.randn(4, 4, 4, generator=g) for g in generators]).double()

    z = noise()
    for time, following in zip(times, [*times[1:], None], strict=True):
        here = ALPHA_BAR[time]
        there = ALPHA_BAR[following] if following is not None else torch.tensor(1.0).double()
        eps = exact_prediction(d)(z, time, None)
        x0 = (z - (1 - here).sqrt() * eps) / here.sqrt()
        std = eta * ((1 - there) / (1 - here) * (1 - here / there)).sqrt()
        z = there.sqrt() * x0 + (1 - there - std**2).sqrt() * eps
        if std > 0:
            z = z + std * noise()
    torch.testing.assert_close(integrate(d, {"name": "ddim", "eta": eta}, steps)[0], z, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("schedule", ["linear", "flow", "edm"])
def test_ddim_of_eta_one_is_ddpm(schedule):
    d = Diffusion(schedule, "v")
    ddim, ddpm = ({"name": name, "spacing": "linspace"} for name in ("ddim", "ddpm"))
    torch.testing.assert_close(integrate(d, {**ddim, "eta": 1.0}, 20)[0], integrate(d, ddpm, 20)[0])


@pytest.mark.parametrize("num_timesteps", [1000, 250, 4000])
def test_linspace_is_adms_respacing_for_every_number_of_steps(num_timesteps):
    schedule = Diffusion({"name": "cosine", "num_timesteps": num_timesteps}).schedule
    for steps in range(2, min(num_timesteps, 1000) + 1):
        assert visited(schedule, steps, "linspace").flip(0).tolist() == respaced(steps, num_timesteps), steps


def test_the_sum_of_strides_is_not_their_product():
    """21 steps: 10 strides of 49.95 add up to 499.49999999999994 and not to 499.5, which would round to 500."""
    assert respaced(21)[10] == 499
    assert round(10 * 999 / 20) == 500


def test_published_respacings():
    schedule = Diffusion("linear").schedule
    assert visited(schedule, 1, "linspace").tolist() == [999]
    assert visited(schedule, 4, "trailing").tolist() == [999, 749, 499, 249]
    assert visited(schedule, 4, "leading").tolist() == [750, 500, 250, 0]
    assert visited(schedule, 1000, "linspace").tolist() == list(range(999, -1, -1))
    assert visited(Diffusion("flow", "flow").schedule, 4).tolist() == [1, 0.75, 0.5, 0.25]


def test_the_first_noise_is_that_of_the_image():
    d, seen = Diffusion("linear", "v"), []

    def network(z, t, labels):
        seen.append(z)
        return torch.zeros_like(z)

    integrate(d, "ddpm", 2, predict=network)
    assert seen[0].equal(first_noise())
