"""The random numbers of one sample of a run, which depend on (seed, position) alone."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from latentdebias.philox import standard_normal

NoiseSource = Literal["host", "device"]
"""Where the noise of the samples is drawn: by the processes that read them, or on the device that trains on them.

The two draw different numbers, and each the same ones whatever the device and the number of ranks and workers.
"""
STREAM = 0
"""The stream of random numbers (see `philox.random_integers`) that the noise is drawn from on a device."""


@dataclass(frozen=True)
class SampleUniforms:
    """Three numbers of one sample, uniform in [0, 1): for the timestep, the mirrored view and the dropped label."""

    u: float
    flip: float
    drop: float

    @classmethod
    def of_position(cls, seed: int, position: int) -> "SampleUniforms":
        """The numbers of the sample at `position` in a run with `seed`."""
        return cls(*_generator(seed, position).random(3))


@dataclass(frozen=True)
class SampleDraws(SampleUniforms):
    """All random numbers of one sample where a host draws them: three uniform ones, and noise.

    `posterior` and `eps` are standard normal, float32 `(C, h, w)`: the noise of the latent's posterior, and the noise
    of the diffusion.
    """

    posterior: np.ndarray
    eps: np.ndarray

    @classmethod
    def of(cls, seed: int, position: int, shape: tuple[int, ...]) -> "SampleDraws":
        """The numbers of `position` in a run with `seed`, for latents of `shape` `(C, h, w)`."""
        rng = _generator(seed, position)
        u, flip, drop = rng.random(3)
        posterior, eps = rng.standard_normal((2, *shape), dtype=np.float32)
        return cls(u, flip, drop, posterior, eps)


def device_noise(seed: int, position: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The posteriors' noise and the diffusion's, float32 `(B, C, h, w)`, of the samples at `position` `(B,)`.

    Both are drawn on the device of `position`, for latents of `shape` `(C, h, w)`, with the same bits on every device.
    """
    posterior, eps = standard_normal(seed, position, STREAM, (2, *shape)).unbind(1)
    return posterior, eps


def _generator(seed: int, position: int) -> np.random.Generator:
    """Philox (Salmon et al. 2011), whose n-th number is a function of a key and of n."""
    # The position is the counter's upper half, above the 2^128 numbers that one position may draw.
    return np.random.Generator(np.random.Philox(key=seed, counter=position << 128))
