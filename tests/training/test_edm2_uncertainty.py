"""The learned weighting of EDM2: its loss, its training at every ZeRO stage, and the model that it leaves."""

import math

import pytest
import torch
from run_files import log_of, stage

from latentdebias import Diffusion, load_model
from latentdebias.diffusion.weightings.learned import Uncertainty, add_uncertainty

EDM2 = [
    "diffusion.schedule=edm",
    "diffusion.target=edm",
    "diffusion.weighting={name: edm2_uncertainty, channels: 16}",
    "diffusion.timesteps={name: log_normal, mean: -0.4, std: 1.0}",
    "diffusion.variance=fixed",
    "sampling.sampler=heun",
    "sampling.steps=2",
    "optimizer.lr=0.01",
]


def losses(run):
    return {row["step"]: row["loss"] for row in log_of(run) if "loss" in row}


def test_the_loss_is_the_weighted_error_over_e_to_the_u_and_u():
    d = Diffusion("edm", "edm", "edm2_uncertainty")
    x0, eps, output = (torch.randn(8, 4, 2, 2) for _ in range(3))
    t, u = torch.linspace(0.1, 0.9, 8), torch.randn(8)
    found = d.loss_terms(lambda z, time: (output, u), x0, t=t, eps=eps)
    plain = d.loss(lambda z, time: output, x0, t=t, eps=eps)
    torch.testing.assert_close(found.total, plain / u.exp() + u)
    # (s^2 + sd^2) / (s sd)^2 on x0 is 1 on EDM's F, so without u this is EDM's loss.
    torch.testing.assert_close(plain, Diffusion("edm", "edm", "edm").loss(lambda z, time: output, x0, t=t, eps=eps))


def test_u_is_a_function_of_the_logarithm_of_the_noise_level():
    class Silent(torch.nn.Module):
        def forward(self, z, time, y=None):
            return torch.zeros_like(z)

    d, network = Diffusion("edm", "edm", {"name": "edm2_uncertainty", "channels": 8}), Silent()
    add_uncertainty(network, d.weighting, d.schedule)
    torch.nn.init.normal_(network.loss_uncertainty.weight)
    t = torch.tensor([0.1, 0.6])
    _, u = network(torch.zeros(2, 1), d.model_time(t))
    module, level = network.loss_uncertainty, d.schedule.level(t)
    c_noise = (level.sigma / level.alpha).log() / 4
    for row in range(2):
        features = math.sqrt(2) * torch.cos(c_noise[row] * module.frequencies + module.phases)
        assert u[row].item() == pytest.approx((features @ module.weight / math.sqrt(8)).item(), rel=1e-4)


def test_at_its_optimum_e_to_the_u_is_the_error():
    """Two noise levels with errors 4 and 0.25, and u alone trained."""
    torch.manual_seed(0)
    module = Uncertainty(64)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    c_noise, error = torch.tensor([-0.5, 0.5]), torch.tensor([4.0, 0.25])
    for _ in range(400):
        u = module(c_noise)
        optimizer.zero_grad()
        (error / u.exp() + u).sum().backward()
        optimizer.step()
    torch.testing.assert_close(module(c_noise).exp(), error, rtol=0.02, atol=0)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_it_trains_logs_its_curve_resumes_and_leaves_the_network_alone(make_run, tmp_path, zero):
    at_stage = [*EDM2, stage(zero)]
    whole = make_run(*at_stage, "training.steps=6", f"run_dir={tmp_path / 'whole'}")
    whole.train()
    for steps in (4, 6):
        resumed = make_run(*at_stage, f"training.steps={steps}", "training.checkpoint_every=4")
        resumed.train()
    assert losses(resumed) == losses(whole)
    curves = [row["uncertainty_by_t"] for row in log_of(whole) if "uncertainty_by_t" in row]
    assert all(u in (0, None) for u in curves[0])
    assert any(u not in (0, None) for u in curves[-1])
    model = load_model(whole.run_dir / "model")
    assert not any("uncertainty" in name for name in model.backbone.state_dict())
    assert model.config.diffusion["weighting"]["name"] == "edm2_uncertainty"
