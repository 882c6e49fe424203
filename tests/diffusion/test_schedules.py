import diffusers
import numpy as np
import pytest
import torch

from latentdebias import Diffusion
from latentdebias.diffusion import SCHEDULES
from latentdebias.errors import UserError

DIFFUSERS_NAMES = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid", "beta_start": 1e-4, "beta_end": 0.02},
}
DISCRETE = list(DIFFUSERS_NAMES)


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_add_noise_equals_diffusers(name, zero_terminal_snr):
    ours = Diffusion({"name": name, "zero_terminal_snr": zero_terminal_snr}, "v")
    theirs = diffusers.DDPMScheduler(rescale_betas_zero_snr=zero_terminal_snr, **DIFFUSERS_NAMES[name])
    x0, eps = torch.randn(1000, 2, 3, 3), torch.randn(1000, 2, 3, 3)
    t = torch.arange(1000)
    torch.testing.assert_close(ours.add_noise(x0, eps, t), theirs.add_noise(x0, eps, t), rtol=1e-4, atol=2e-4)


def test_v_target_equals_diffusers_velocity():
    ours, theirs = Diffusion("cosine", "v"), diffusers.DDIMScheduler(**DIFFUSERS_NAMES["cosine"])
    x0, eps, t = torch.randn(50, 4), torch.randn(50, 4), torch.arange(0, 1000, 20)
    torch.testing.assert_close(ours.target_of(x0, eps, t), theirs.get_velocity(x0, eps, t), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_schedules_preserve_variance_and_lose_signal(name):
    level = SCHEDULES.build(name).level(torch.arange(1000), torch.float64)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(1000, dtype=torch.float64))
    assert (level.alpha.diff() < 0).all()


@pytest.mark.parametrize("name", DISCRETE)
def test_zero_terminal_snr_keeps_the_first_level_and_ends_at_zero(name):
    plain, rescaled = (Diffusion({"name": name, "zero_terminal_snr": z}, "v") for z in (False, True))
    assert rescaled.snr(torch.tensor([999])) == 0
    torch.testing.assert_close(rescaled.alpha(torch.tensor([0])), plain.alpha(torch.tensor([0])))


@pytest.mark.parametrize(("name", "highest", "lowest"), [("cosine", 2.4e4, 2.4e-9), ("linear", 1e4, 4.0e-5)])
def test_quoted_snr_ranges(name, highest, lowest):
    snr = Diffusion(name).snr(torch.tensor([0, 999]))
    assert snr[0].item() == pytest.approx(highest, rel=0.03)
    assert snr[1].item() == pytest.approx(lowest, rel=0.03)


def test_linear_starts_at_sigma_0_01():
    """Min-SNR's EDM sampler has 1001 betas there, hence 0.01095."""
    assert Diffusion("linear").sigma(torch.tensor([0])).item() == pytest.approx(0.0100, abs=1e-6)


@pytest.mark.parametrize("num_timesteps", [100, 250, 1000, 4000])
def test_linear_scales_its_betas_to_the_number_of_timesteps_as_adm_does(num_timesteps):
    """ADM's get_named_beta_schedule: both ends times 1000 / T, so the noise ends where it ends at T = 1000."""
    schedule = SCHEDULES.build({"name": "linear", "num_timesteps": num_timesteps})
    betas = np.linspace(1000 / num_timesteps * 1e-4, 1000 / num_timesteps * 0.02, num_timesteps)
    torch.testing.assert_close(schedule.betas(), torch.from_numpy(betas), rtol=1e-12, atol=0)
    assert 1e-5 < schedule.alphas_cumprod[-1] < 5e-5


def test_at_1000_timesteps_the_range_of_the_betas_makes_no_difference():
    adm, theirs = (SCHEDULES.build({"name": "linear", "beta_range": each}) for each in ("adm", "diffusers"))
    assert adm.betas().equal(theirs.betas())


def test_the_range_of_diffusers_is_that_of_its_schedulers():
    ours = Diffusion({"name": "linear", "num_timesteps": 250, "beta_range": "diffusers"})
    theirs = diffusers.DDPMScheduler(num_train_timesteps=250)
    torch.testing.assert_close(ours.schedule.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-5, atol=0)
    read = Diffusion.from_diffusers(theirs)
    torch.testing.assert_close(read.schedule.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-6, atol=0)


def test_betas_that_reach_one_are_refused():
    with pytest.raises(UserError, match="num_timesteps above 20"):
        SCHEDULES.build({"name": "linear", "num_timesteps": 20})
    assert SCHEDULES.build({"name": "linear", "num_timesteps": 20, "beta_range": "diffusers"}).betas()[-1] == 0.02


@pytest.mark.parametrize("spec", [*DISCRETE, {"name": "linear", "zero_terminal_snr": True}], ids=str)
def test_the_betas_of_the_levels_multiply_to_alphas_cumprod(spec):
    schedule = SCHEDULES.build(spec)
    level = schedule.level(schedule.grid(), torch.float64)
    torch.testing.assert_close(torch.cumprod(1 - level.beta, 0), level.alpha**2)


def test_flow_is_the_straight_path_with_the_shift_of_sd3():
    t = torch.tensor([0.0, 0.25, 1.0])
    d = Diffusion("flow", "flow")
    torch.testing.assert_close(d.sigma(t), t)
    torch.testing.assert_close(d.alpha(t), 1 - t)
    shifted = Diffusion({"name": "flow", "shift": 3.0}, "flow")
    torch.testing.assert_close(shifted.sigma(t), torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize(
    "spec", ["linear", {"name": "linear", "num_timesteps": 300}, {"name": "flow", "shift": 3.0}, "edm"]
)
def test_times_come_back_from_the_network_and_from_the_unit_interval(spec):
    schedule = SCHEDULES.build(spec)
    t = schedule.from_unit(torch.linspace(0.01, 0.99, 20))
    torch.testing.assert_close(schedule.from_model_time(schedule.model_time(t).float()), t, rtol=1e-5, atol=1e-6)
    assert ((schedule.to_unit(t) - torch.linspace(0.01, 0.99, 20)).abs() <= 1 / 300 + 1e-6).all()


def test_from_diffusers_reads_schedule_and_target():
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    d = Diffusion.from_diffusers(scheduler, weighting="min_snr")
    x0, eps, t = torch.randn(20, 4), torch.randn(20, 4), torch.arange(0, 1000, 50)
    torch.testing.assert_close(d.add_noise(x0, eps, t), scheduler.add_noise(x0, eps, t), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(d.target_of(x0, eps, t), scheduler.get_velocity(x0, eps, t), rtol=1e-4, atol=1e-5)


def test_from_diffusers_reads_a_flow_matching_scheduler():
    d = Diffusion.from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    reference = Diffusion({"name": "flow", "shift": 3.0}, "flow")
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(d.sigma(t), reference.sigma(t))
    assert d.spec() == reference.spec()


def test_from_diffusers_refuses_a_scheduler_without_a_table():
    with pytest.raises(ValueError, match="alphas_cumprod"):
        Diffusion.from_diffusers(diffusers.EDMEulerScheduler())


def test_from_diffusers_survives_its_own_spec():
    d = Diffusion.from_diffusers(diffusers.DDPMScheduler(), weighting="debias")
    t = torch.arange(1000)
    torch.testing.assert_close(Diffusion(**d.spec()).loss_weight(t), d.loss_weight(t))


@pytest.mark.parametrize("spec", ["linear", "cosine", "flow", {"name": "flow", "shift": 3.0}, "edm"])
def test_the_position_of_a_noise_level_is_found_again(spec):
    schedule = SCHEDULES.build(spec)
    t = schedule.from_unit(torch.linspace(0.01, 0.99, 20, dtype=torch.float64))
    ratio = schedule.level(t, torch.float64).ratio
    torch.testing.assert_close(schedule.from_unit(schedule.unit_at(ratio)), t)


@pytest.mark.parametrize("spec", ["linear", {"name": "linear", "zero_terminal_snr": True}])
def test_the_nearest_step_stands_for_a_level_between_two(spec):
    schedule = SCHEDULES.build(spec)
    log_ratio = -0.5 * Diffusion(spec, "v").snr(torch.arange(1000)).double().log()
    ratio = torch.tensor([1e-6, 0.0123, 0.5, 3.0, 9.9], dtype=torch.float64)
    nearest = (log_ratio - ratio.log()[:, None]).abs().argmin(dim=1)
    assert schedule.from_unit(schedule.unit_at(ratio)).tolist() == nearest.tolist()


def test_an_edm_schedule_without_a_range_is_refused():
    with pytest.raises(ValueError, match="not below sigma_max"):
        SCHEDULES.build({"name": "edm", "sigma_min": 2.0, "sigma_max": 1.0})
