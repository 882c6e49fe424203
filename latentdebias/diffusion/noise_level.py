"""The noise level of z = alpha x0 + sigma eps, which schedules give and targets and weightings are functions of."""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentdebias.diffusion.broadcasting import over_batch

SMALLEST_ALPHA = 1e-12
SMALLEST_SIGMA = 1e-12


@dataclass(frozen=True)
class NoiseLevel:
    """alpha and sigma of z = alpha x0 + sigma eps, and the variance beta of the forward step that ends at this level.

    The tensors have one shape: `()` for one timestep, `(B,)` for a batch of them, `(T,)` for a whole schedule. A
    continuous schedule has no steps, and its beta is None. `rate`, where it is known, is how fast log SNR falls per
    share of the schedule, -d log SNR / du (see `Schedule.level_and_rate`).
    """

    alpha: Tensor
    sigma: Tensor
    beta: Tensor | None = None
    rate: Tensor | None = None

    @property
    def snr(self) -> Tensor:
        """The signal-to-noise ratio alpha^2 / sigma^2, in the shape of alpha."""
        return (self.alpha / self.sigma) ** 2

    @property
    def log_snr(self) -> Tensor:
        """The natural logarithm of the SNR, in the shape of alpha."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def flow_sigma(self) -> Tensor:
        """sigma / (alpha + sigma): sigma of the level with this SNR on the path alpha = 1 - sigma, shaped as alpha."""
        return self.sigma / (self.alpha + self.sigma)

    @property
    def flow_alpha(self) -> Tensor:
        """alpha / (alpha + sigma): alpha of the level with this SNR on the path alpha = 1 - sigma, shaped as alpha."""
        return self.alpha / (self.alpha + self.sigma)

    @property
    def ratio(self) -> Tensor:
        """sigma / alpha, which Karras et al. 2022 call the noise level sigma, in the shape of alpha."""
        return self.sigma / self.alpha

    def over_batch(self, like: Tensor) -> "NoiseLevel":
        """The level of each row, `(B,)`, shaped to multiply `like` `(B, ...)`; `ValueError` for any other shape."""
        beta = None if self.beta is None else over_batch(self.beta, like)
        return NoiseLevel(over_batch(self.alpha, like), over_batch(self.sigma, like), beta)

    def inside(self) -> "NoiseLevel":
        """The level with alpha and sigma at least 1e-12 and beta below 1, where limits such as 0 / 0 are numbers."""
        beta = None if self.beta is None else self.beta.clamp(max=1 - torch.finfo(self.beta.dtype).eps)
        alpha, sigma = self.alpha.clamp(min=SMALLEST_ALPHA), self.sigma.clamp(min=SMALLEST_SIGMA)
        return NoiseLevel(alpha, sigma, beta, self.rate)
