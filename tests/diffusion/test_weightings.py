import warnings

import pytest
import torch

from latentdebias import Diffusion
from latentdebias.diffusion import TARGETS, WEIGHTINGS
from latentdebias.errors import UserError

T = torch.arange(1000)
# Those of other codes are other objectives under eps than under v, which is the point of them.
OF_CODES = ("kohya_debiased", "onetrainer_debiased", "min_snr_over_snr")
PAPER_WEIGHTS = [name for name in WEIGHTINGS.names() if name not in ("constant", *OF_CODES)]


def weight(weighting, target="eps", schedule="linear"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Diffusion(schedule, target, weighting).loss_weight(T).double()


@pytest.mark.parametrize("weighting", PAPER_WEIGHTS)
@pytest.mark.parametrize("target", TARGETS.names())
def test_a_weighting_means_the_same_loss_in_every_space(weighting, target):
    """w_y |dy|^2 at a fixed z, with dy measured from a finite step in eps rather than from our own ratio."""
    d = Diffusion("linear", target)
    x0, eps = torch.randn(1000, 4, dtype=torch.float64), torch.randn(1000, 4, dtype=torch.float64)
    z, step = d.add_noise(x0, eps, T), torch.randn(1000, 4, dtype=torch.float64)
    level = d.schedule.level(T, torch.float64).over_batch(z)
    moved_x0 = (z - level.sigma * (eps + step)) / level.alpha
    dy = d.target_of(moved_x0, eps + step, T) - d.target_of(x0, eps, T)
    error_in_target = (dy**2).sum(1) * weight(weighting, target)
    torch.testing.assert_close(error_in_target, (step**2).sum(1) * weight(weighting, "eps"), rtol=1e-4, atol=1e-9)


def snr(schedule="linear"):
    return Diffusion(schedule).snr(T).double()


@pytest.mark.parametrize(
    ("weighting", "target", "expected"),
    [
        ("snr", "eps", lambda s: torch.ones_like(s)),
        ("inv_snr", "x0", lambda s: torch.ones_like(s)),
        ("inv_snr", "eps", lambda s: 1 / s),
        ("max_snr", "x0", lambda s: s.clamp(min=1)),
        ("min_snr", "x0", lambda s: s.clamp(max=5)),
        ("min_snr", "eps", lambda s: (5 / s).clamp(max=1)),
        ("min_snr", "v", lambda s: s.clamp(max=5) / (s + 1)),
        ("soft_min_snr", "x0", lambda s: 5 * s / (s + 5)),
        ("p2", "eps", lambda s: 1 / (1 + s)),
        ("debias", "eps", lambda s: s**-0.5),
        ("debias", "x0", lambda s: s**0.5),
        ("debias", "v", lambda s: s**0.5 / (s + 1)),
    ],
)
def test_published_forms(weighting, target, expected):
    torch.testing.assert_close(weight(weighting, target), expected(snr()), rtol=1e-4, atol=1e-9)


def test_vlb_is_the_variational_bound_of_debias_eq_5():
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alphas_cumprod = (1 - beta).cumprod(0)
    torch.testing.assert_close(weight("vlb"), beta**2 / ((1 - beta) * (1 - alphas_cumprod)), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("weighting", "mean"), [("debias", 17.8), ("inv_snr", 1311), ("p2", 0.72), ("min_snr", 0.91), ("constant", 1)]
)
def test_quoted_means_on_the_linear_schedule(weighting, mean):
    assert weight(weighting).mean().item() == pytest.approx(mean, rel=0.01)


def test_quoted_range_of_debias_on_the_linear_schedule():
    assert weight("debias").min().item() == pytest.approx(0.01, rel=0.01)
    assert weight("debias").max().item() == pytest.approx(157, rel=0.01)


@pytest.mark.parametrize("timesteps", ["uniform", "stratified", "logit_normal"])
def test_normalize_makes_the_mean_over_the_sampled_timesteps_one(timesteps):
    d = Diffusion("linear", "eps", {"name": "debias", "normalize": "mean"}, timesteps)
    rows = 200_000
    t = d.sample_timesteps(torch.rand(rows), torch.arange(rows), rows)
    assert d.loss_weight(t).mean().item() == pytest.approx(1, rel=0.02)


def test_max_weight_caps_the_weight_in_the_targets_space():
    assert weight({"name": "debias", "max_weight": 20}).max() == 20


def test_space_overrides_the_papers():
    torch.testing.assert_close(weight({"name": "debias", "space": "x0"}, "x0"), snr() ** -0.5, rtol=1e-4, atol=0)


def test_snr_zero_takes_the_limit_and_not_one():
    """Min-SNR's code gives weight 1 there, where min(SNR, 5) / (SNR + 1) goes to 0."""
    d = Diffusion({"name": "linear", "zero_terminal_snr": True}, "v", "min_snr")
    assert d.loss_weight(torch.tensor([999])).item() == pytest.approx(0, abs=1e-9)
    d = Diffusion({"name": "linear", "zero_terminal_snr": True}, "x0", "debias")
    assert d.loss_weight(torch.tensor([999])).item() == pytest.approx(0, abs=1e-9)


def test_flow_weights_are_those_of_its_snr():
    d, t = Diffusion("flow", "v", "debias"), torch.tensor([0.1, 0.5, 0.9])
    alpha, sigma = 1 - t, t
    expected = (sigma / alpha) * (alpha / (alpha**2 + sigma**2)) ** 2
    torch.testing.assert_close(d.loss_weight(t), expected)


def test_an_unbounded_weighting_is_refused_and_a_cap_accepted():
    with pytest.raises(UserError, match="max_weight"):
        Diffusion("flow", "x0", "debias")
    capped = Diffusion("flow", "x0", {"name": "debias", "max_weight": 50.0})
    assert capped.loss_weight(torch.tensor([1e-6])).item() == pytest.approx(50)


def test_debias_on_the_cosine_schedule_warns_and_names_the_mend():
    with pytest.warns(UserWarning, match="max_weight.*linear"):
        Diffusion("cosine", "eps", "debias")


def test_debias_on_its_papers_schedule_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Diffusion("linear", "eps", "debias")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("debais", "Did you mean 'debias'"),
        ({"name": "min_snr", "gama": 5}, "Did you mean 'gamma'"),
        ({"name": "min_snr", "gamma": "five"}, "'five'"),
        ({"name": "debias", "space": "epsilon"}, "Unknown target 'epsilon'"),
        ({"gamma": 5}, "Legal here: constant"),
    ],
)
def test_a_typo_is_an_error_that_names_the_legal_choice(spec, words):
    with pytest.raises(UserError, match=words):
        Diffusion("linear", "eps", spec)


def test_vlb_needs_a_discrete_schedule():
    with pytest.raises(UserError, match="discrete"):
        Diffusion("flow", "v", "vlb")
