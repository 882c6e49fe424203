"""A network that is exact on Gaussian data, as the model of a figure's inputs."""

import torch
from gaussian import MU, SHAPE, S, posterior_mean
from torch import nn

from latentdebias.analysis.inputs import Inputs, LabelledModel
from latentdebias.diffusion.pareto.bins import Latents
from latentdebias.models.model_directory import LoadedModel


class Exact(nn.Module):
    """The best prediction of `diffusion`'s target where x0 ~ N(MU, S^2), plus `bias` in eps."""

    def __init__(self, diffusion, bias=0.0):
        super().__init__()
        self.diffusion, self.bias = diffusion, nn.Parameter(torch.tensor(float(bias)))

    def forward(self, z, time, y=None):
        schedule = self.diffusion.schedule
        level = schedule.level(schedule.from_model_time(time), torch.float64).over_batch(z)
        x0 = posterior_mean(level.alpha, level.sigma, z.double())
        eps = (z - level.alpha * x0) / level.sigma + self.bias
        return self.diffusion.target.of((z - level.sigma * eps) / level.alpha, eps, level)


def gaussian_latents(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Latents(MU + S * torch.randn(count, *SHAPE, generator=g), torch.randn(count, *SHAPE, generator=g), None)


def inputs_of(models, latents=None, **options):
    """The inputs of a figure: models by label, which no directory holds."""
    inputs = Inputs(**options)
    vars(inputs)["models"] = [
        LabelledModel(
            label, None, model if isinstance(model, LoadedModel) else LoadedModel(model, model.diffusion, None)
        )
        for label, model in models.items()
    ]
    vars(inputs)["latents"] = latents
    return inputs
