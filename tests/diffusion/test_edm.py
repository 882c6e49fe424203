"""EDM's denoiser, put together from this package's parts, against the formulas of Karras et al. 2022, table 1."""

import pytest
import torch

from latentdebias import Diffusion

SIGMA_DATA = 0.5


def network(z_in, time):
    """Any function of both inputs."""
    return torch.sin(3 * z_in + time.view(-1, 1, 1, 1).to(z_in)) + z_in**2


def karras_denoiser(x, s, c_noise):
    c_skip = SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2)
    c_out = s * SIGMA_DATA / torch.sqrt(SIGMA_DATA**2 + s**2)
    c_in = 1 / torch.sqrt(SIGMA_DATA**2 + s**2)
    c_skip, c_out, c_in = (c.view(-1, 1, 1, 1) for c in (c_skip, c_out, c_in))
    return c_skip * x + c_out * network(c_in * x, c_noise)


@pytest.mark.parametrize(
    ("schedule", "t"),
    [
        ("edm", torch.linspace(0, 1, 9, dtype=torch.float64)),
        ("linear", torch.tensor([0, 10, 100, 500, 999])),
        ("cosine", torch.tensor([0, 10, 100, 500, 900])),
        ("flow", torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)),
    ],
)
def test_the_denoiser_is_the_one_of_the_paper(schedule, t):
    d = Diffusion(schedule, {"name": "edm", "sigma_data": SIGMA_DATA})
    level = d.schedule.level(t, torch.float64)
    x = torch.randn(len(t), 2, 3, 3, dtype=torch.float64) * 3
    z = level.alpha.view(-1, 1, 1, 1) * x
    y = network(d.model_input(z, t), d.model_time(t))
    torch.testing.assert_close(d.to_x0(y, z, t), karras_denoiser(x, level.ratio, d.model_time(t)), rtol=1e-6, atol=1e-6)


def test_the_edm_schedule_tells_the_network_c_noise_and_spans_the_papers_levels():
    d, t = Diffusion("edm", "edm"), torch.linspace(0, 1, 9, dtype=torch.float64)
    level = d.schedule.level(t, torch.float64)
    torch.testing.assert_close(d.model_time(t), level.ratio.log() / 4)
    torch.testing.assert_close(level.ratio[[0, -1]], torch.tensor([0.002, 80.0], dtype=torch.float64))


def test_the_training_target_is_f_and_sees_the_scaled_input():
    d, t = Diffusion("edm", "edm"), torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)
    x0, eps = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    s = torch.exp(4 * d.model_time(t)).view(-1, 1, 1, 1)
    x = x0 + s * eps
    c_skip, c_out = 0.25 / (s**2 + 0.25), 0.5 * s / torch.sqrt(s**2 + 0.25)
    torch.testing.assert_close(d.target_of(x0, eps, t), (x0 - c_skip * x) / c_out)
    seen = []

    def model(z_in, time):
        seen.append(z_in)
        return torch.zeros_like(z_in)

    d.loss(model, x0, t=t, eps=eps)
    torch.testing.assert_close(seen[0], x / torch.sqrt(s**2 + 0.25))


@pytest.mark.parametrize("schedule", ["edm", "linear"])
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_the_papers_weighting_is_one_on_its_target(schedule, sigma_data):
    """lambda(s) = (s^2 + sigma_data^2) / (s sigma_data)^2 on x0."""
    t = torch.tensor([0.05, 0.5, 0.95]) if schedule == "edm" else torch.tensor([10, 500, 950])
    weighting = {"name": "edm", "sigma_data": sigma_data}
    on_f = Diffusion(schedule, {"name": "edm", "sigma_data": sigma_data}, weighting)
    torch.testing.assert_close(on_f.loss_weight(t), torch.ones(3))
    on_x0 = Diffusion(schedule, "x0", weighting)
    s = 1 / on_x0.snr(t).sqrt()
    torch.testing.assert_close(on_x0.loss_weight(t), (s**2 + sigma_data**2) / (s * sigma_data) ** 2)


def test_sigma_data_one_on_a_variance_preserving_schedule_is_minus_v():
    edm, v = Diffusion("cosine", {"name": "edm", "sigma_data": 1.0}), Diffusion("cosine", "v")
    x0, eps, t = torch.randn(5, 4), torch.randn(5, 4), torch.arange(0, 1000, 200)
    torch.testing.assert_close(edm.target_of(x0, eps, t), -v.target_of(x0, eps, t))
    z = v.add_noise(x0, eps, t)
    torch.testing.assert_close(edm.model_input(z, t), z)
