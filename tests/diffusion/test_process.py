import diffusers
import pytest
import torch

from latentdebias import Diffusion


def test_loss_is_the_weighted_mean_squared_error_of_each_sample():
    d = Diffusion("cosine", "v", {"name": "min_snr", "gamma": 5})
    x0, eps, t = torch.randn(6, 4, 8, 8), torch.randn(6, 4, 8, 8), torch.arange(6) * 150
    answer = torch.randn(6, 4, 8, 8)
    losses = d.loss(lambda z, time, y: answer, x0, y=torch.zeros(6, dtype=torch.long), t=t, eps=eps)
    alpha, sigma = (s(t).view(-1, 1, 1, 1) for s in (d.alpha, d.sigma))
    expected = ((answer - (alpha * eps - sigma * x0)) ** 2).mean((1, 2, 3)) * d.loss_weight(t)
    torch.testing.assert_close(losses, expected)
    assert losses.shape == (6,)


def test_the_model_is_told_noisy_latents_time_and_labels():
    seen = {}

    def model(z, time, y):
        seen.update(z=z, time=time, y=y)
        return torch.zeros_like(z)

    d, x0, labels = Diffusion("flow", "flow"), torch.randn(3, 2), torch.tensor([1, 2, 3])
    t, eps = torch.tensor([0.1, 0.5, 0.9]), torch.randn(3, 2)
    d.loss(model, x0, y=labels, t=t, eps=eps)
    torch.testing.assert_close(seen["time"], 1000 * t)
    torch.testing.assert_close(seen["z"], d.add_noise(x0, eps, t))
    assert seen["y"] is labels


@pytest.mark.parametrize("timesteps", ["uniform", "stratified", "logit_normal"])
def test_loss_draws_t_and_eps_itself(timesteps):
    d = Diffusion("linear", "eps", "debias", timesteps)
    losses = d.loss(lambda z, time: torch.zeros_like(z), torch.randn(16, 4))
    assert losses.shape == (16,)
    assert losses.isfinite().all()


def test_half_precision_answers_are_scored_in_fp32():
    d, x0 = Diffusion(), torch.randn(4, 8)
    losses = d.loss(lambda z, time: torch.zeros_like(z, dtype=torch.bfloat16), x0)
    assert losses.dtype == torch.float32


def test_it_trains_inside_a_loop_around_a_diffusers_unet():
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(16, 16), norm_num_groups=8,
        layers_per_block=1, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    d = Diffusion.from_diffusers(diffusers.DDPMScheduler(), weighting="debias")
    optimizer = torch.optim.Adam(unet.parameters(), 2e-3)
    x0 = torch.randn(16, 2, 1, 1).expand(-1, -1, 8, 8)
    t, eps = torch.arange(16) * 60, torch.randn(16, 2, 8, 8)
    losses = []
    for _ in range(30):
        loss = d.loss(lambda z, time: unet(z, time).sample, x0, t=t, eps=eps).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_network_of_the_true_answer_has_no_loss():
    d, x0, eps, t = Diffusion("linear", "v", "debias"), torch.randn(8, 4), torch.randn(8, 4), torch.arange(8) * 125
    answer = d.target_of(x0, eps, t)
    assert d.loss(lambda z, time: answer, x0, t=t, eps=eps).max() < 1e-10


def test_a_spec_rebuilds_the_same_process():
    d = Diffusion({"name": "flow", "shift": 2.0}, "v", {"name": "p2", "k": 2.0}, "logit_normal")
    assert Diffusion(**d.spec()).spec() == d.spec()


@pytest.mark.parametrize(
    ("schedule", "target"), [("linear", "eps"), ("cosine", "v"), ("cosine", "x0"), ("flow", "flow")]
)
def test_the_error_of_x0_is_that_of_the_estimate_without_a_weight(schedule, target):
    d = Diffusion(schedule, target, "min_snr")
    x0, eps, answer = torch.randn(3, 6, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = d.schedule.from_unit(torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], dtype=torch.float64))
    terms = d.loss_terms(lambda z, time: answer, x0, t=t, eps=eps)
    error = (d.to_x0(answer, d.add_noise(x0, eps, t), t) - x0) ** 2
    torch.testing.assert_close(terms.x0_error, error.flatten(1).mean(dim=1), rtol=1e-4, atol=0, check_dtype=False)
