"""The gradient of the squared error of x0 in a bin, against closed forms."""

import pytest
import torch
from gaussian_model import Exact, gaussian_latents

from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.pareto.bins import bin_gradient, inner_products, timesteps_in
from latentdebias.models.model_directory import LoadedModel

BIAS = 0.5


def loaded(diffusion):
    return LoadedModel(Exact(diffusion, BIAS), diffusion, None)


def mean_ratio(diffusion, t):
    """The mean of 1 / SNR: the squared error of x0 where that of eps is 1."""
    return (1 / diffusion.schedule.level(t, torch.float64).snr).mean()


@pytest.mark.parametrize(("schedule", "target"), [("linear", "eps"), ("flow", "flow")])
@pytest.mark.parametrize("batch_size", [128, 1000])
def test_the_gradient_is_that_of_the_mean_error_of_x0(schedule, target, batch_size):
    """With a bias b in eps the error of x0 is that of the posterior plus b^2 / SNR."""
    diffusion, latents = Diffusion(schedule, target), gaussian_latents(1000)
    t = timesteps_in(diffusion, 4, 10, 1000)
    [gradient] = bin_gradient(loaded(diffusion), latents, t, batch_size)
    assert gradient.item() == pytest.approx(float(2 * BIAS * mean_ratio(diffusion, t)), rel=0.05)


def test_timesteps_are_of_the_bin_and_any_stretch_is_spread_over_it():
    diffusion = Diffusion("linear", "eps")
    t = timesteps_in(diffusion, 3, 10, 1000)
    assert (t.min(), t.max()) == (300, 399)
    for stretch in t.split(50):
        assert torch.histc(stretch.float(), bins=5, min=300, max=400).min() >= 8


def test_inner_products_of_long_gradients():
    gradients = torch.randn(3, 3_000_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(inner_products(list(gradients)), (gradients.double() @ gradients.double().T))
