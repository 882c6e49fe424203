"""Draw latents: every image a function of (seed, index) alone, whatever the batch it is drawn in."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.sampling.denoiser import Denoiser, Noise, Observe, Predict
from latentdebias.sampling.draw_options import DrawOptions


def image_generator(seed: int, index: int) -> torch.Generator:
    """The source of all randomness of image `index`; on the CPU, so that it gives the same image on every device."""
    state = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@dataclass(frozen=True)
class LatentSampler:
    """Draws normalised latents of `shape` (C, h, w) from a network, given as the function `predict`.

    `predict(z, t, labels)` answers in the target of `diffusion`, and with its variance, on z_t = alpha x0 + sigma eps.
    `observe` is told of every estimate of x0.
    """

    predict: Predict
    diffusion: Diffusion
    shape: tuple[int, ...]
    observe: Observe | None = None

    def draw(self, labels: Tensor, options: DrawOptions, batches: Iterable[int] | None = None) -> Iterator[Tensor]:
        """Batches of latents (B, C, h, w) fp32 for `labels` (N,), in order; image i is drawn from (seed, i).

        `batches` are the numbers of the batches to draw, so that several processes can share a set; None draws all.
        """
        size = options.batch_size
        for number in range(-(-len(labels) // size)) if batches is None else batches:
            start = number * size
            chunk = labels[start : start + size]
            generators = [image_generator(options.seed, start + offset) for offset in range(len(chunk))]
            yield self.draw_batch(chunk, generators, options)

    @torch.no_grad()
    def draw_batch(self, labels: Tensor, generators: list[torch.Generator], options: DrawOptions) -> Tensor:
        """One batch of latents (B, C, h, w) fp32 for `labels` (B,), image i from the noise of `generators[i]`."""
        denoise = Denoiser(self.predict, self.diffusion, labels, options.zero_init, self.observe)
        noise = Noise(generators, self.shape, labels.device)
        return options.sampler.integrate(denoise, noise, options.steps).float()
