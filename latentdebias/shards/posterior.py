"""From an encoder's output to what a shard stores, and from that to latents: Gaussian posteriors and fixed latents."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from latentdebias.shards.format import STORED_DTYPES, Plan


def to_stored(values: np.ndarray, plan: Plan) -> np.ndarray:
    """An encoder's float32 output `(B, *plan.stored_shape)` in the set's dtype.

    float16: rounded, and infinite where it is too large. uint8: values in [-1, 1] to the nearest of 256 levels.
    """
    assert values.shape[1:] == plan.stored_shape, f"{values.shape} is not the planned {plan.stored_shape}"
    return PACK[plan.dtype](values)


def draw_latents(stored: Tensor, noise: Tensor, plan: Plan) -> Tensor:
    """Unscaled latents, float32 `(B, C, h, w)`, of stored views `(B, *plan.stored_shape)`.

    Gaussian: mean + exp(logvar / 2) noise (Kingma and Welling, 2014, equation 10), with `noise` `(B, C, h, w)`.
    Deterministic: the stored latent, whatever the noise; uint8 pixels are in [-1, 1].
    """
    return DRAW[plan.posterior](UNPACK[plan.dtype](stored), noise)


def latent_means(stored: Tensor, plan: Plan) -> Tensor:
    """The posteriors' means, float32 `(B, C, h, w)`, of stored views `(B, *plan.stored_shape)`."""
    return UNPACK[plan.dtype](stored[:, : plan.latent_shape[0]])


def moments_of(stored: np.ndarray, plan: Plan) -> np.ndarray:
    """Mean then log-variance, float32 `(2C, h, w)`, of one stored view; -inf is that of a deterministic latent."""
    values = UNPACK[plan.dtype](torch.from_numpy(stored)).numpy()
    return MOMENTS[plan.posterior](values)


def _to_half(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(STORED_DTYPES["float16"])


def _to_levels(values: np.ndarray) -> np.ndarray:
    return ((values + 1) * 127.5).round().clip(0, 255).astype(STORED_DTYPES["uint8"])


def _from_levels(levels: Tensor) -> Tensor:
    return levels.float() / 127.5 - 1


def _draw_gaussian(moments: Tensor, noise: Tensor) -> Tensor:
    mean, logvar = moments.chunk(2, dim=1)
    return mean + torch.exp(0.5 * logvar) * noise


def _without_variance(latent: np.ndarray) -> np.ndarray:
    return np.concatenate([latent, np.full_like(latent, -np.inf)])


PACK: dict[str, Callable[[np.ndarray], np.ndarray]] = {"float16": _to_half, "uint8": _to_levels}
UNPACK: dict[str, Callable[[Tensor], Tensor]] = {"float16": Tensor.float, "uint8": _from_levels}
DRAW: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gaussian": _draw_gaussian,
    "deterministic": lambda latents, noise: latents,
}
MOMENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gaussian": lambda moments: moments,
    "deterministic": _without_variance,
}
