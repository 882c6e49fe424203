"""Draw latents: every image a function of (seed, index) alone, whatever the batch it is drawn in."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from latentdebias.diffusion import Diffusion
from latentdebias.sampling.samplers import Sampler, velocity_of

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


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
) -> Tensor:
    """Integrate from noise to x0 with `steps` steps of `sampler`: labels `(B,)` -> normalised latents `(B, *shape)`.

    `predict(z, time, labels)` answers in the target of `diffusion`, on z_t = alpha x0 + sigma eps.
    """
    scheduler = sampler.scheduler(diffusion.schedule)
    scheduler.set_timesteps(steps, device=labels.device)
    noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(labels.device)
    z = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    velocity = velocity_of(diffusion.schedule)
    for step_time in scheduler.timesteps:
        z_t = scheduler.scale_model_input(z, step_time) if hasattr(scheduler, "scale_model_input") else z
        time = step_time.float().expand(len(z))
        prediction = predict(z_t, time, labels)
        t = diffusion.schedule.from_model_time(time)
        v = diffusion.convert(prediction, z_t, t, to=velocity)
        z = sampler.step(scheduler, v, step_time, z, generators)
    return z


def generate(
    predict: Predict,
    diffusion: Diffusion,
    sampler: Sampler,
    labels: Tensor,
    shape: tuple[int, ...],
    seed: int,
    steps: int,
    batch_size: int,
    batches: Iterable[int] | None = None,
) -> Iterator[Tensor]:
    """Batches of latents for `labels` `(N,)`, in order; image i is drawn from (seed, i).

    `batches` are the numbers of those that are drawn, so that several processes may share a set; None draws all.
    """
    for number in range(-(-len(labels) // batch_size)) if batches is None else batches:
        start = number * batch_size
        chunk = labels[start : start + batch_size]
        generators = [image_generator(seed, start + offset) for offset in range(len(chunk))]
        yield sample(predict, diffusion, sampler, chunk, shape, generators, steps)
