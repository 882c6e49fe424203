"""Learned variance against the equations of Ho et al. 2020 and Nichol & Dhariwal 2021, worked out here in fp64."""

import math

import diffusers
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from latentdebias import Diffusion
from latentdebias.diffusion import TARGETS
from latentdebias.errors import UserError

BETA = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHA_BAR = torch.cumprod(1 - BETA, 0)
BEFORE = torch.cat([torch.ones(1, dtype=torch.float64), ALPHA_BAR[:-1]])
T = torch.tensor([0, 1, 2, 30, 500, 998, 999, 0])
SHAPE = (len(T), 3, 4, 4)


def at(table):
    return table[T].view(-1, 1, 1, 1)


def posterior_mean(x0, z):
    """Ho et al. 2020, eq. 7."""
    from_x0 = at(BEFORE.sqrt() * BETA / (1 - ALPHA_BAR)) * x0
    return from_x0 + at((1 - BETA).sqrt() * (1 - BEFORE) / (1 - ALPHA_BAR)) * z


def bound_in_bits(x0, z, x0_hat, values):
    """L_t of each sample: the KL of a step, and the discretised decoder's likelihood at t = 0."""
    beta_tilde = BETA * (1 - BEFORE) / (1 - ALPHA_BAR)
    beta_tilde[0] = beta_tilde[1]
    share = (values + 1) / 2
    std = torch.exp(0.5 * (share * at(BETA.log()) + (1 - share) * at(beta_tilde.log())))
    mean = posterior_mean(x0_hat, z)
    kl = kl_divergence(Normal(posterior_mean(x0, z), at(beta_tilde).sqrt()), Normal(mean, std))
    upper = torch.where(x0 > 0.999, torch.inf, x0 + 1 / 255)
    lower = torch.where(x0 < -0.999, -torch.inf, x0 - 1 / 255)
    decoder = Normal(mean, std)
    nll = -torch.log((decoder.cdf(upper) - decoder.cdf(lower)).clamp(min=1e-12))
    return torch.where(at(torch.arange(1000)) == 0, nll, kl).mean((1, 2, 3)) / math.log(2)


def case(target, weighting="constant"):
    torch.manual_seed(0)
    d = Diffusion("linear", target, weighting, variance="learned_range")
    x0, eps = (1.2 * torch.rand(SHAPE) - 0.6).double(), torch.randn(SHAPE).double()
    x0[:, :, 0], x0[:, :, 1] = 1.0, -1.0
    z = d.add_noise(x0, eps, T)
    prediction = d.target_of(x0 + 0.002 * torch.randn(SHAPE), eps + 0.02 * torch.randn(SHAPE), T)
    values = 2 * torch.rand(SHAPE).double() - 1
    return d, x0, eps, z, prediction, values


def terms(d, x0, eps, output):
    return d.loss_terms(lambda z, time: output, x0, t=T, eps=eps)


@pytest.mark.parametrize("target", TARGETS.names())
def test_the_bound_is_that_of_the_papers_with_every_target(target):
    d, x0, eps, z, prediction, values = case(target)
    found = terms(d, x0, eps, torch.cat([prediction, values], 1))
    expected = bound_in_bits(x0, z, d.to_x0(prediction, z, T), values) * 1000 / 1000
    torch.testing.assert_close(found.bound, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.total, found.error + found.bound)


def test_in_fp32_the_bound_stays_near():
    d, x0, eps, z, prediction, values = case("eps")
    found = terms(d, x0.float(), eps.float(), torch.cat([prediction, values], 1).float())
    expected = bound_in_bits(x0, z, d.to_x0(prediction, z, T), values).float()
    torch.testing.assert_close(found.bound, expected, rtol=2e-3, atol=1e-4)


def test_the_bound_is_rescaled_by_t_over_1000():
    """ADM's RESCALED_MSE: L_vlb = T L_t for one t drawn uniformly, times 0.001."""
    x0, eps, t = torch.rand(2, 3, 2, 2).double(), torch.randn(2, 3, 2, 2).double(), torch.tensor([20, 40])
    output = torch.zeros(2, 6, 2, 2).double()

    def bound(**fields):
        d = Diffusion({"name": "linear", "num_timesteps": 250}, variance={"name": "learned_range", **fields})
        return d.loss_terms(lambda z, time: output, x0, t=t, eps=eps).bound

    torch.testing.assert_close(bound(), 0.25 * bound(bound_weight=1 / 250))


def test_only_the_squared_error_is_weighted():
    weighted, plain = case("eps", "debias"), case("eps")
    output = torch.cat([weighted[4], weighted[5]], 1)
    with_weight, without = (terms(d, x0, eps, output) for d, x0, eps, *_ in (weighted, plain))
    torch.testing.assert_close(with_weight.bound, without.bound)
    weight = weighted[0].loss_weight(T)
    assert (weight - 1).abs().max() > 1
    torch.testing.assert_close(with_weight.error, without.error * weight)


@pytest.mark.parametrize("target", TARGETS.names())
def test_the_mean_gets_no_gradient_from_the_bound_and_the_variance_none_from_the_error(target):
    d, x0, eps, _, prediction, values = case(target)
    prediction, values = prediction.requires_grad_(), values.requires_grad_()
    both = terms(d, x0, eps, torch.cat([prediction, values], 1))
    from_bound = torch.autograd.grad(both.bound.sum(), (prediction, values), retain_graph=True)
    from_error = torch.autograd.grad(both.error.sum(), (prediction, values))
    assert from_bound[0].abs().max() == 0
    assert from_bound[1].abs().max() > 0
    assert from_error[0].abs().max() > 0
    assert from_error[1].abs().max() == 0


def test_the_two_ends_of_the_range_are_beta_and_its_posterior():
    """At the true mean the KL is zero for beta_tilde alone."""
    d, x0, eps, _, _, _ = case("v")
    truth = d.target_of(x0, eps, T)
    small, large = (terms(d, x0, eps, torch.cat([truth, torch.full_like(truth, v)], 1)).bound for v in (-1, 1))
    assert small[T > 0].abs().max() < 1e-15
    assert (large[T > 0] > 1e-13).all()
    assert (large[(T > 0) & (T < 100)] > 1e-3).all()


def test_a_schedule_that_ends_at_snr_zero_has_a_finite_bound():
    d = Diffusion({"name": "linear", "zero_terminal_snr": True}, "v", variance="learned_range")
    losses = d.loss(lambda z, time: torch.zeros(2, 8, 3, 3), torch.randn(2, 4, 3, 3), t=torch.tensor([998, 999]))
    assert losses.isfinite().all()


@pytest.mark.parametrize("schedule", ["flow", "edm"])
def test_a_continuous_schedule_has_no_range_to_learn(schedule):
    with pytest.raises(UserError, match="variance fixed"):
        Diffusion(schedule, "v", variance="learned_range")


@pytest.mark.parametrize(("variance", "channels", "expected"), [("learned_range", 4, 8), ("fixed", 8, 4)])
def test_a_network_of_other_channels_is_told_how_many(variance, channels, expected):
    d = Diffusion(variance=variance)
    with pytest.raises(UserError, match=f"out_chans={expected}"):
        d.loss(lambda z, time: torch.zeros(2, channels, 3, 3), torch.randn(2, 4, 3, 3))


def test_the_variance_is_part_of_the_spec_and_missing_from_older_ones():
    d = Diffusion("cosine", "v", variance={"name": "learned_range", "bound_weight": 0.01})
    assert d.spec()["variance"] == {"name": "learned_range", "bound_weight": 0.01}
    assert Diffusion(**d.spec()).spec() == d.spec()
    old = {key: value for key, value in d.spec().items() if key != "variance"}
    assert Diffusion(**old).spec()["variance"] == {"name": "fixed"}


def test_a_typo_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'learned_range'"):
        Diffusion(variance="learned_rang")


def test_a_loop_around_a_diffusers_scheduler_may_learn_it_too():
    d = Diffusion.from_diffusers(diffusers.DDPMScheduler(), variance="learned_range")
    assert d.loss(lambda z, time: torch.zeros(2, 8, 3, 3), torch.randn(2, 4, 3, 3)).shape == (2,)
