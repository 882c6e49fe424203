"""The random numbers of one sample of a run, from a generator that depends on (seed, position) alone."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SampleDraws:
    """The random numbers of the sample at one position of a run.

    `u`, `flip` and `drop` are uniform in [0, 1): they decide the timestep, the mirrored view and the dropped label.
    `posterior` and `eps` are standard normal, float32 `(C, h, w)`: the noise of the latent's posterior, and the noise
    of the diffusion.
    """

    u: float
    flip: float
    drop: float
    posterior: np.ndarray
    eps: np.ndarray

    @classmethod
    def of(cls, seed: int, position: int, shape: tuple[int, ...]) -> "SampleDraws":
        """The numbers of `position` in a run with `seed`, for latents of `shape` `(C, h, w)`.

        The generator is Philox (Salmon et al. 2011), whose n-th number is a function of a key and of n.
        """
        # The position is the counter's upper half, above the 2^128 numbers that one position may draw.
        rng = np.random.Generator(np.random.Philox(key=seed, counter=position << 128))
        u, flip, drop = rng.random(3)
        posterior, eps = rng.standard_normal((2, *shape), dtype=np.float32)
        return cls(u, flip, drop, posterior, eps)
