"""A guided network: its prediction pushed away from a weaker one, in one batched call where both are its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentdebias.precision import Precision, computing_in
from latentdebias.sampling.guidance import Guidance
from latentdebias.sampling.network import Network


@dataclass(frozen=True)
class Guided:
    """A network under guidance: weak + scale (strong - weak), on all channels by default (Ho & Salimans 2022).

    strong is the network's prediction under the class. weak is its prediction under the null class, or that of another
    network, `weaker`, under the same class, which is autoguidance (Karras et al. 2024). At a fixed z every target is an
    affine function of every other, so guiding the network's own target guides all of them alike; rescale and the rule
    cfg_zero do depend on the target, and act on the network's own. The outputs of a learned variance are those under
    the class. Where the scale is 1 only the class is run. The networks run in `precision`.
    """

    network: Network
    guidance: Guidance
    null_class: int
    weaker: Network | None = None
    precision: Precision = "fp32"

    def __call__(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The guided output (B, C or 2C, H, W) for z (B, C, H, W), one timestep t () on the CPU and labels (B,)."""
        scale = self.guidance.scale_at(float(self.network.diffusion.schedule.to_unit(t.double())))
        autocast = torch.autocast(z.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with computing_in(self.precision), autocast:
            if scale == 1:
                return self.network(z, t, labels if self.null_class else None)
            strong, weak = self._both(z, t, labels)
        return self._combine(strong, weak, scale, z.shape[1])

    def _both(self, z: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The network's output under the class, and the weak prediction, converted to the network's target."""
        if self.weaker is None:
            null = torch.full_like(labels, self.null_class)
            strong, weak = self.network(torch.cat([z, z]), t, torch.cat([labels, null])).chunk(2)
            return strong, weak[:, : z.shape[1]]
        known = labels if self.null_class else None
        weak, _ = self.weaker.diffusion.variance.split(self.weaker(z, t, known), z)
        level = self.network.diffusion.schedule.level(t, torch.float64)
        weak = self.weaker.diffusion.target.convert(weak, z, level, to=self.network.diffusion.target)
        return self.network(z, t, known), weak.float()

    def _combine(self, output: Tensor, weak: Tensor, scale: float, channels: int) -> Tensor:
        guided = min(self.guidance.channels or channels, channels)
        strong, rest = output[:, :guided], output[:, guided:]
        combined = self.guidance.rule.combine(strong, weak[:, :guided], scale)
        return torch.cat([rescale(combined, strong, self.guidance.rescale), rest], dim=1)


def rescale(guided: Tensor, strong: Tensor, phi: float) -> Tensor:
    """Bring the standard deviation of each image's guided prediction back to that of `strong` by the share `phi`.

    Lin et al. 2023, eq. 15 and 16.
    """
    if phi == 0:
        return guided
    dims = tuple(range(1, guided.ndim))
    factor = strong.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return guided * (phi * factor + 1 - phi)
