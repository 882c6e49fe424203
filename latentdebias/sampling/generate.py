"""Draw latents: every image a function of (seed, index) alone, whatever the batch it is drawn in."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.sampling.denoiser import Denoiser, Noise, Observe, Predict
from latentdebias.sampling.samplers import Sampler


def image_generator(seed: int, index: int) -> torch.Generator:
    """The source of all randomness of image `index`; on the CPU, so that it gives the same image on every device."""
    state = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@torch.no_grad()
def sample(
    predict: Predict,
    diffusion: Diffusion,
    sampler: Sampler,
    labels: Tensor,
    shape: tuple[int, ...],
    generators: list[torch.Generator],
    steps: int,
    zero_init: int = 0,
    observe: Observe | None = None,
) -> Tensor:
    """Integrate from noise to x0 with `steps` steps of `sampler`: labels `(B,)` -> normalised latents `(B, *shape)`.

    `predict(z, t, labels)` answers in the target of `diffusion`, and with its variance, on z_t = alpha x0 + sigma eps.
    """
    denoise = Denoiser(predict, diffusion, labels, zero_init, observe)
    return sampler.integrate(denoise, Noise(generators, shape, labels.device), steps).float()


def generate(
    predict: Predict,
    diffusion: Diffusion,
    sampler: Sampler,
    labels: Tensor,
    shape: tuple[int, ...],
    seed: int,
    steps: int,
    batch_size: int,
    zero_init: int = 0,
    batches: Iterable[int] | None = None,
    observe: Observe | None = None,
) -> Iterator[Tensor]:
    """Batches of latents for `labels` `(N,)`, in order; image i is drawn from (seed, i).

    `batches` are the numbers of those that are drawn, so that several processes may share a set; None draws all.
    """
    for number in range(-(-len(labels) // batch_size)) if batches is None else batches:
        start = number * batch_size
        chunk = labels[start : start + batch_size]
        generators = [image_generator(seed, start + offset) for offset in range(len(chunk))]
        yield sample(predict, diffusion, sampler, chunk, shape, generators, steps, zero_init, observe)
