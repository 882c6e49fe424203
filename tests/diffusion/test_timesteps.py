import pytest
import torch

from latentdebias import Diffusion


def drawn(timesteps, rows=100_000):
    d = Diffusion("linear", timesteps=timesteps)
    return d.sample_timesteps(torch.rand(rows), torch.arange(rows), rows)


def test_uniform_covers_every_timestep_alike():
    counts = torch.bincount(drawn("uniform"), minlength=1000)
    assert len(counts) == 1000
    assert (counts > 40).all()
    assert (counts < 180).all()


def test_stratified_puts_one_row_into_each_stratum_across_ranks():
    d, rows = Diffusion("linear", timesteps="stratified"), 1000
    first, second = (d.sample_timesteps(torch.rand(500), torch.arange(500) + start, rows) for start in (0, 500))
    assert torch.cat([first, second]).sort().values.equal(torch.arange(1000))


def test_logit_normal_is_the_sigmoid_of_a_normal():
    positions = (drawn({"name": "logit_normal", "mean": 0.5, "std": 0.8}).double() + 0.5) / 1000
    logits = torch.logit(positions)
    torch.testing.assert_close(logits.mean(), torch.tensor(0.5, dtype=torch.float64), rtol=0, atol=0.02)
    torch.testing.assert_close(logits.std(), torch.tensor(0.8, dtype=torch.float64), rtol=0, atol=0.02)


def test_extreme_uniforms_stay_on_the_schedule():
    edges = torch.tensor([0.0, 1 - 2**-24])
    for timesteps in ("uniform", "stratified", "logit_normal", "log_normal"):
        t = Diffusion("linear", timesteps=timesteps).sample_timesteps(edges, torch.arange(2), 2)
        assert ((t >= 0) & (t <= 999)).all()


@pytest.mark.parametrize("schedule", ["edm", "flow", "cosine"])
def test_log_normal_is_normal_in_the_log_of_the_noise_level(schedule):
    d = Diffusion(schedule, "v", timesteps={"name": "log_normal", "mean": -1.2, "std": 1.2})
    rows = 100_000
    t = d.sample_timesteps(torch.rand(rows, dtype=torch.float64), torch.arange(rows), rows)
    log_level = -0.5 * d.snr(t).log()
    assert log_level.mean().item() == pytest.approx(-1.2, abs=0.02)
    assert log_level.std().item() == pytest.approx(1.2, abs=0.02)
