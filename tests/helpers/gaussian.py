"""Data for which everything is known in closed form: x0 ~ N(MU, S^2) in every pixel."""

import torch

from latentdebias.sampling import SAMPLERS, image_generator
from latentdebias.sampling.denoiser import Denoiser, Noise
from latentdebias.sampling.heun import Heun
from latentdebias.sampling.timesteps import visited

MU, S = 0.7, 0.5
SHAPE = (4, 4, 4)


def posterior_mean(alpha, sigma, z):
    return MU + alpha * S**2 / (alpha**2 * S**2 + sigma**2) * (z - alpha * MU)


def exact_prediction(d):
    """The best possible network for `d`, in fp64."""

    def predict(z, t, labels):
        level = d.schedule.level(t, torch.float64)
        x0 = posterior_mean(level.alpha, level.sigma, z.double())
        return d.target.of(x0, (z - level.alpha * x0) / level.sigma, level)

    return predict


def integrate(d, sampler, steps, count=4, predict=None, seed=0):
    """Samples `(count, *SHAPE)` in fp64, and the number of network calls."""
    denoise = Denoiser(predict or exact_prediction(d), d, torch.zeros(count, dtype=torch.long))
    generators = [image_generator(seed, i) for i in range(count)]
    x = SAMPLERS.build(sampler).integrate(denoise, Noise(generators, SHAPE, torch.device("cpu")), steps)
    return x, denoise.calls


def first_noise(count=4, seed=0):
    return torch.stack([torch.randn(SHAPE, generator=image_generator(seed, i)) for i in range(count)]).double()


def exact_image(d, sampler, steps, count=4):
    """Where the probability-flow ODE carries the sampler's first noise: every z / std(z) keeps its place."""
    sampler = SAMPLERS.build(sampler)
    if isinstance(sampler, Heun):
        first = sampler.rounded(d.schedule, sampler.levels(d.schedule, steps)[0])
        alpha, sigma = first.alpha, first.alpha * first.s
        z = sigma * first_noise(count)
    else:
        level = d.schedule.level(visited(d.schedule, steps)[0], torch.float64)
        alpha, sigma = level.alpha.item(), level.sigma.item()
        z = first_noise(count)
    return MU + S * (z - alpha * MU) / (alpha**2 * S**2 + sigma**2) ** 0.5
