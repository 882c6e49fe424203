"""Weights and gradients of bins, and their intervals, against closed forms."""

import pytest
import torch
from gaussian_model import Exact, gaussian_latents

from latentdebias.analysis.bins import BinGradients, bin_weights, cosines
from latentdebias.diffusion import SCHEDULES, WEIGHTINGS, Diffusion
from latentdebias.diffusion.pareto.bins import bin_gradient, inner_products, timesteps_in
from latentdebias.models.model_directory import LoadedModel

BIAS = 0.5


def loaded(diffusion):
    return LoadedModel(Exact(diffusion, BIAS), diffusion, None)


@pytest.mark.parametrize(("schedule", "snr_of"), [("flow", lambda t: ((1 - t) / t) ** 2)])
def test_weights_of_a_bin_are_their_mean_over_it(schedule, snr_of):
    schedule = SCHEDULES.build(schedule)
    torch.testing.assert_close(bin_weights(WEIGHTINGS.build("constant"), schedule, 8), torch.full((8,), 1 / 8).double())
    means = []
    for number in range(10):
        fine = (number + (torch.arange(10_000) + 0.5) / 10_000) / 10
        means.append(snr_of(fine.double()).clamp(max=5).mean())
    expected = torch.stack(means) / sum(means)
    torch.testing.assert_close(bin_weights(WEIGHTINGS.build("min_snr"), schedule, 10), expected, rtol=0.05, atol=0)


def test_cosines_and_intervals_of_known_gradients():
    """The jackknife's variance of a mean of K blocks is the usual one, so that its interval is known."""
    directions = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0]], dtype=torch.float64)
    scale = 1 + 0.1 * torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = scale[:, None, None] * directions
    found = BinGradients(inner_products(list(gradients.flatten(0, 1))).view(6, 3, 6, 3))
    expected = torch.tensor([[1, 0.5**0.5, -1], [0.5**0.5, 1, -(0.5**0.5)], [-1, -(0.5**0.5), 1]]).double()
    torch.testing.assert_close(cosines(found.gram()), expected)
    value, low, high = found.estimate(lambda gram: gram[0, 0].sqrt())
    assert value.item() == pytest.approx(scale.mean().item())
    margin = 1.96 * scale.std() / 6**0.5
    assert ((high - low) / 2).item() == pytest.approx(margin.item())


def test_blocks_make_up_the_gradient_over_all_images():
    diffusion, latents = Diffusion("linear", "eps"), gaussian_latents(64)
    found = BinGradients.of(loaded(diffusion), latents, bins=4, blocks=4, batch_size=10)
    whole = [
        bin_gradient(loaded(diffusion), latents, timesteps_in(diffusion, number, 4, 64), 64) for number in range(4)
    ]
    torch.testing.assert_close(found.gram(), inner_products(whole), rtol=1e-4, atol=0)
