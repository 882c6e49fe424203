"""Weightings published after the two papers, against formulas written here from the papers."""

import math
import warnings

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from latentdebias import Diffusion
from latentdebias.errors import UserError

T = torch.arange(1000)


def weight(weighting, target="eps", schedule="linear", t=T):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Diffusion(schedule, target, weighting).loss_weight(t).double()


def snr(schedule="linear", t=T):
    return Diffusion(schedule, "v").snr(t).double()


@pytest.mark.parametrize("b", [-3.0, 0.0, 2.0])
def test_sigmoid_is_the_sigmoid_of_b_less_log_snr_on_eps(b):
    torch.testing.assert_close(weight({"name": "sigmoid", "b": b}), 1 / (1 + snr() * math.exp(-b)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_sigmoid_is_soft_min_snr_with_gamma_e_to_the_b(target):
    ours = weight({"name": "sigmoid", "b": 1.5}, target)
    soft = weight({"name": "soft_min_snr", "gamma": math.exp(1.5)}, target)
    torch.testing.assert_close(ours, soft, rtol=1e-5, atol=0)


@pytest.mark.parametrize("schedule", ["trig", {"name": "laplace", "b": 2.0}, "edm", {"name": "flow", "shift": 3.0}])
def test_a_weight_per_log_snr_is_one_integral_on_every_schedule(schedule):
    """1/2 int sigmoid(b - l) e^(-l/2) dl over log SNR from 6 to -6, with errors of eps that have e^(-l/2)."""
    d = Diffusion(schedule, "v", {"name": "sigmoid", "b": 1.0, "per": "log_snr"})
    ends = d.schedule.unit_at(torch.tensor([math.exp(-3), math.exp(3)], dtype=torch.float64))
    t = ends[0] + (ends[1] - ends[0]) * (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    level = d.schedule.level_and_rate(t, torch.float64)
    # From a weight on v to one on eps: |dv|^2 = |d eps|^2 (det_v / alpha)^2.
    on_eps = d.weighting.weight_of_target(d.target, level) * (d.target.det(level) / level.alpha) ** 2
    mean = (on_eps * torch.exp(-level.log_snr / 2)).mean() * (ends[1] - ends[0])
    expected = 0.5 * quad(lambda log_snr: math.exp(-log_snr / 2) / (1 + math.exp(log_snr - 1)), -6, 6)[0]
    assert mean.item() == pytest.approx(expected, rel=1e-4)


def test_elbo_is_the_limit_of_ddpms_bound():
    """Ho et al. 2020, eq. 12 with variance beta, summed over T steps: T beta / (2 (1 - beta) (1 - alpha_bar))."""
    count = 20_000
    betas = torch.linspace(1e-4, 0.02, count, dtype=torch.float64) * 1000 / count
    bound = count * betas / (2 * (1 - betas) * (1 - (1 - betas).cumprod(0)))
    t = torch.arange(500, 19_500, 500)
    found = weight("elbo", "eps", {"name": "linear", "num_timesteps": count}, t)
    torch.testing.assert_close(found, bound[t], rtol=2e-3, atol=0)


def test_edm_monotonic_is_edms_weight_and_density_down_to_its_peak():
    log_snr = torch.linspace(-8, 8, 200, dtype=torch.float64)
    d = Diffusion("edm", "eps", {"name": "edm_monotonic", "per": "t"})
    t = d.schedule.unit_at(torch.exp(-log_snr / 2))
    found = d.weighting.weight_of_target(d.target, d.schedule.level(t, torch.float64))
    plain = torch.from_numpy(norm.pdf(log_snr.numpy(), 2.4, 2.4)) * (1 + torch.exp(-log_snr) / 0.25)
    peak = int(plain.argmax())
    torch.testing.assert_close(found[peak + 2 :], plain[peak + 2 :], rtol=1e-6, atol=0)
    assert (found.diff() <= 1e-12).all()
    torch.testing.assert_close(found[:peak], plain.max().expand(peak), rtol=1e-3, atol=0)


def test_sd3s_weightings_are_on_the_velocity_of_the_flow_path():
    t = torch.tensor([0.05, 0.3, 0.5, 0.9])
    expected = 2 / (math.pi * (1 - 2 * t + 2 * t**2))
    torch.testing.assert_close(weight("cosmap", "flow", "flow", t).float(), expected)
    torch.testing.assert_close(weight("sigma_sqrt", "flow", "flow", t).float(), t**-2)


@pytest.mark.parametrize("name", ["cosmap", "sigma_sqrt"])
def test_off_the_flow_path_they_weigh_the_level_of_the_same_snr(name):
    """A velocity of the flow path is alpha + sigma times shorter than one of a path that preserves variance."""
    t = torch.tensor([0.1, 0.4, 0.8])
    on_trig = Diffusion("trig", "flow", name)
    level = on_trig.schedule.level(t, torch.float64)
    same = Diffusion("flow", "flow", name).loss_weight((level.sigma / (level.alpha + level.sigma)).float())
    torch.testing.assert_close(on_trig.loss_weight(t), same, rtol=1e-5, atol=0)


def test_kohya_debiased_is_two_objectives():
    torch.testing.assert_close(weight("kohya_debiased", "eps"), snr().clamp(max=1000) ** -0.5, rtol=1e-5, atol=0)
    torch.testing.assert_close(weight("kohya_debiased", "v"), 1 / (snr() + 1), rtol=1e-5, atol=0)
    torch.testing.assert_close(weight("kohya_debiased", "v"), weight({"name": "constant", "space": "x0"}, "v"))
    with pytest.raises(UserError, match="choose weighting debias"):
        Diffusion("linear", "x0", "kohya_debiased")
