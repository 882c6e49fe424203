"""Every sampler against the closed form of `gaussian`."""

import math

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from draw_options import draw_options
from gaussian import MU, SHAPE, S, exact_image, exact_prediction, first_noise, integrate

from latentdebias import Diffusion
from latentdebias.diffusion import TARGETS
from latentdebias.errors import UserError
from latentdebias.sampling import SAMPLERS, LatentSampler, image_generator
from latentdebias.sampling.denoiser import Denoiser, Noise
from latentdebias.sampling.multistep import UniPC
from latentdebias.sampling.timesteps import visited

ZERO_SNR = {"name": "linear", "zero_terminal_snr": True}
SHIFTED = {"name": "flow", "shift": 3.0}
ENDS_AT_SNR_0 = [ZERO_SNR, "flow", SHIFTED]
SCHEDULES = ["linear", "cosine", "edm", *ENDS_AT_SNR_0]
DETERMINISTIC = ["ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc"]
STOCHASTIC = ["ddpm", {"name": "ddim", "eta": 1.0}, {"name": "heun", "s_churn": 40.0}]
# Levels evenly spaced in log SNR, where the solvers have the order that their papers prove; the last jump to data and
# the first steps, which are of lower order, lie far out.
SMOOTH = {"name": "edm", "sigma_min": 0.0001, "sigma_max": 300.0}


def error(d, sampler, steps):
    return (integrate(d, sampler, steps)[0] - exact_image(d, sampler, steps)).abs().mean().item()


def assert_it_reaches_the_exact_image(sampler, schedule, target):
    d = Diffusion(schedule, target)
    few, many = error(d, sampler, 20), error(d, sampler, 160)
    assert many < (0.01 if sampler == "ddim" else 0.002)
    assert many < 0.25 * few


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_deterministic_samplers_reach_the_exact_image_on_every_schedule(sampler, schedule):
    assert_it_reaches_the_exact_image(sampler, schedule, "v")


@pytest.mark.parametrize(("schedule", "target"), [(s, t) for s in SCHEDULES for t in TARGETS.names() if t != "v"])
def test_every_target_means_the_exact_image_on_every_schedule(schedule, target):
    """A sampler sees x0 alone, so one stands for all."""
    if target == "eps" and schedule in ENDS_AT_SNR_0:
        with pytest.raises(UserError, match="its SNR ends at 0"):
            Diffusion(schedule, target)
    else:
        assert_it_reaches_the_exact_image("dpmpp_2m", schedule, target)


ORDERS = [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2), ({"name": "unipc", "order": 1}, 2), ("unipc", 3)]


@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=str)
def test_the_error_falls_with_the_order_of_the_sampler(sampler, order):
    """The slope of log error against log steps, between 40 and 160."""
    d = Diffusion(SMOOTH, "v")
    slope = math.log(error(d, sampler, 40) / error(d, sampler, 160)) / math.log(4)
    assert slope == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("sampler", "order"), [*ORDERS, ("dpmpp_3m", 3)], ids=str)
def test_on_a_mixture_of_gaussians_the_order_is_the_same(sampler, order):
    """By the differences between 80, 160 and 320 steps. On one Gaussian dpmpp_3m is even of order 4."""
    d = Diffusion(SMOOTH, "x0")
    means, shares = torch.tensor([-1.0, 0.3, 1.5]).double(), torch.tensor([0.3, 0.5, 0.2]).double()

    def posterior_mean_of_mixture(z, t, labels):
        level = d.schedule.level(t, torch.float64)
        alpha = level.alpha
        variance, offset = alpha**2 * S**2 + level.sigma**2, z[..., None] - alpha * means
        responsibility = (shares.log() - offset**2 / (2 * variance)).softmax(-1)
        return (responsibility * (means + alpha * S**2 / variance * offset)).sum(-1)

    coarse, middle, fine = (integrate(d, sampler, n, predict=posterior_mean_of_mixture)[0] for n in (80, 160, 320))
    slope = math.log2((coarse - middle).abs().mean() / (middle - fine).abs().mean())
    assert slope == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("schedule", ["cosine", ZERO_SNR, SHIFTED], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize(("order", "tolerance"), [(1, 0), (2, 0), (3, 1e-14)])
def test_unipc_takes_the_steps_of_diffusers(order, tolerance, steps, schedule):
    """Up to order 2 to the last bit; in order 3, diffusers sums two products in one operation."""
    d, sampler = Diffusion(schedule, "v"), UniPC(order=order)
    t = visited(d.schedule, steps)
    theirs = UniPCMultistepScheduler(prediction_type="sample", solver_order=order, use_flow_sigmas=schedule is SHIFTED)
    theirs.set_timesteps(steps)
    theirs.sigmas = sampler.sigmas(d.schedule, t)
    theirs.set_begin_index(0)
    z, denoise = first_noise(), Denoiser(exact_prediction(d), d, torch.zeros(1, dtype=torch.long))
    for i, their_t in enumerate(theirs.timesteps):
        z = theirs.step(denoise(z, t[i], i).x0, their_t, z).prev_sample
    ours, _ = integrate(d, {"name": "unipc", "order": order}, steps)
    torch.testing.assert_close(ours, z, rtol=tolerance, atol=tolerance)


def test_euler_is_of_order_one_and_is_ddim_on_the_flow_path():
    """z + (sigma' - sigma) v from sigma to sigma', written out."""
    d, steps = Diffusion(SHIFTED, "flow"), 25
    assert math.log2(error(d, "euler", 40) / error(d, "euler", 80)) == pytest.approx(1, abs=0.05)
    z, predict = first_noise(), exact_prediction(d)
    t = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    sigma = d.schedule.level(t, torch.float64).sigma
    for i in range(steps):
        z = z + (sigma[i + 1] - sigma[i]) * predict(z, t[i], None)
    torch.testing.assert_close(integrate(d, "euler", steps)[0], z, rtol=1e-12, atol=1e-12)
    assert integrate(d, "euler", steps)[0].equal(integrate(d, "ddim", steps)[0])


DDPM, DDIM, HEUN = STOCHASTIC


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        *((DDPM, schedule) for schedule in ("linear", ZERO_SNR, SHIFTED, "edm")),
        *((DDIM, schedule) for schedule in ("cosine", "flow")),
        *((HEUN, schedule) for schedule in ("cosine", ZERO_SNR, "flow", "edm")),
    ],
    ids=str,
)
def test_stochastic_samplers_reach_the_distribution(schedule, sampler):
    """The error of ancestral steps is of order 1: 0.014 at 250 steps, 0.007 at 500; the standard error is 0.003."""
    x, _ = integrate(Diffusion(schedule, "v"), sampler, 500, count=200)
    assert x.mean().item() == pytest.approx(MU, abs=0.015)
    assert x.var().item() == pytest.approx(S**2, abs=0.015)


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *STOCHASTIC, {"name": "ddpm", "variance": "fixed_large"}], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_network_calls_are_as_many_as_stated(sampler, steps):
    x, calls = integrate(Diffusion("linear", "eps"), sampler, steps)
    assert calls == SAMPLERS.build(sampler).nfe(steps)
    assert x.isfinite().all()


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *STOCHASTIC], ids=str)
def test_an_image_does_not_depend_on_its_batch(sampler):
    d, labels = Diffusion("linear", "v"), torch.zeros(7, dtype=torch.long)

    def draw(batch_size):
        options = draw_options(sampler=sampler, steps=10, batch_size=batch_size)
        return torch.cat(list(LatentSampler(exact_prediction(d), d, SHAPE).draw(labels, options)))

    torch.testing.assert_close(draw(7), draw(2))


def test_other_seeds_are_other_images():
    d = Diffusion("linear", "v")
    assert not torch.allclose(integrate(d, "ddim", 5, seed=0)[0], integrate(d, "ddim", 5, seed=1)[0])


@pytest.mark.parametrize(
    ("sampler", "schedule", "words"),
    [
        ("euler", "linear", "choose sampler ddim"),
        ({"name": "ddpm", "variance": "learned"}, "linear", "fixed variance"),
        ("heun", {"name": "linear", "num_timesteps": 24}, "has 24"),
    ],
)
def test_what_a_sampler_cannot_draw_is_refused(sampler, schedule, words):
    with pytest.raises(UserError, match=words):
        SAMPLERS.build(sampler).check(Diffusion(schedule, "v"), 25)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dimm", "Did you mean 'ddim'"),
        ({"name": "ddim", "eta": 2}, "'eta'"),
        ({"name": "heun", "churn": 2}, "Did you mean 's_churn'"),
        ({"name": "unipc", "order": 4}, "'order'"),
    ],
)
def test_a_bad_option_is_named(spec, words):
    with pytest.raises(UserError, match=words):
        SAMPLERS.build(spec)


def test_steps_that_stand_still_leave_the_noise_and_ask_for_nothing():
    """CFG-Zero*: velocity 0 in the first steps."""
    d, seen = Diffusion("flow", "flow"), []

    def predict(z, t, labels):
        seen.append((t.item(), z))
        return exact_prediction(d)(z, t, labels)

    denoise = Denoiser(predict, d, torch.zeros(2, dtype=torch.long), zero_init=3)
    generators = [image_generator(0, i) for i in range(2)]
    SAMPLERS.build("euler").integrate(denoise, Noise(generators, SHAPE, torch.device("cpu")), 10)
    assert denoise.calls == len(seen) == 7
    assert seen[0][0] == pytest.approx(0.7)
    torch.testing.assert_close(seen[0][1], first_noise(2), rtol=1e-6, atol=1e-6)
