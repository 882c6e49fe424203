"""What a sampler is given: a network's estimates of x0, whatever its target, and noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdebias.diffusion import Diffusion

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`predict(z, t, labels)`: z `(B, C, H, W)`, one timestep t `()` on the CPU, labels `(B,)` -> the network's output."""
Observe = Callable[[Tensor, Tensor, int], None]
"""`observe(x0, t, step)`: called with every estimate x0 `(B, ...)` fp64 at timestep t `()` in step number `step`."""


@dataclass(frozen=True)
class Estimate:
    """A network's estimate x0 `(B, ...)` fp64, and its values `(B, ...)` of the variance where it has learned them."""

    x0: Tensor
    variance: Tensor | None = None


class Denoiser:
    """Estimates of x0 for one batch; `calls` counts the network calls (NFE), a guided one as one.

    The first `zero_init` steps take the velocity for 0 without asking the network (CFG-Zero*, Fan et al. 2025).
    """

    def __init__(
        self,
        predict: Predict,
        diffusion: Diffusion,
        labels: Tensor,
        zero_init: int = 0,
        observe: Observe | None = None,
    ) -> None:
        self.predict, self.diffusion, self.labels, self.zero_init = predict, diffusion, labels, zero_init
        self.observe = observe
        self.calls = 0

    def __call__(self, z: Tensor, t: Tensor, step: int) -> Estimate:
        """z `(B, ...)` fp64 at timestep t `()` on the CPU, within step number `step` -> the estimate."""
        estimate = self._estimate(z, t, step)
        if self.observe:
            self.observe(estimate.x0, t, step)
        return estimate

    def _estimate(self, z: Tensor, t: Tensor, step: int) -> Estimate:
        if step < self.zero_init:
            # On the linear path x0 = z - sigma v.
            return Estimate(z)
        self.calls += 1
        prediction, values = self.diffusion.variance.split(self.predict(z, t, self.labels), z)
        level = self.diffusion.schedule.level(t, torch.float64)
        return Estimate(self.diffusion.target.to_x0(prediction.double(), z, level), values)


class Noise:
    """Standard normal noise `(B, *shape)` in fp64, each row from its own generator."""

    def __init__(self, generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device) -> None:
        self.generators, self.shape, self.device = generators, shape, device

    def __call__(self) -> Tensor:
        rows = torch.stack([torch.randn(self.shape, generator=generator) for generator in self.generators])
        # From pageable memory the copy would wait for all that the GPU still has to do.
        pinned = rows.pin_memory() if self.device.type == "cuda" else rows
        return pinned.to(self.device, torch.float64, non_blocking=True)
