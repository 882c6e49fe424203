"""The one place where a number for each row `(B,)` is shaped to multiply a batch `(B, ...)`."""

from torch import Tensor


def over_batch(scale: Tensor, like: Tensor) -> Tensor:
    """A scale for each row `(B,)` shaped to multiply `like` `(B, ...)`; raises `ValueError` for any other shape."""
    if scale.shape != like.shape[:1]:
        raise ValueError(f"t must have shape ({like.shape[0]},), one timestep a sample, and has {tuple(scale.shape)}")
    return scale.reshape(-1, *[1] * (like.ndim - 1))
