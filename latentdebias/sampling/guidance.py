"""Guidance: a network's answer pushed away from a weaker one, in one batched call where both are its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentdebias.backbones.spec import Precision
from latentdebias.sampling.guidance_options import GuidanceOptions
from latentdebias.sampling.network import Network


@dataclass(frozen=True)
class Guided:
    """weak + guidance (strong - weak), on all channels unless the options say otherwise (Ho & Salimans 2022).

    weak is the same network under its null class or, given as `weaker`, another network under the same class, which is
    autoguidance (Karras et al. 2024). Every target is affine in every other at a fixed z, so doing this in the target's
    own space is doing it in all of them; rescale and cfg_zero do depend on the space, and take the target's own. The
    values of a learned variance stay those of the class. Where guidance is 1 only the strong half is run. Under bf16
    the networks run in autocast.
    """

    network: Network
    options: GuidanceOptions
    null_class: int
    weaker: Network | None = None
    precision: Precision = "fp32"

    def __call__(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """z `(B, C, H, W)`, one timestep t `()` on the CPU, labels `(B,)` -> the guided output `(B, C or 2C, H, W)`."""
        guidance = self.options.scale(float(self.network.diffusion.schedule.to_unit(t.double())))
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if guidance == 1:
                return self.network(z, t, labels if self.null_class else None)
            strong, weak = self._both(z, t, labels)
        return self._combine(strong, weak, guidance, z.shape[1])

    def _both(self, z: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The strong output, and the weak prediction stated in the same target."""
        if self.weaker is None:
            null = torch.full_like(labels, self.null_class)
            strong, weak = self.network(torch.cat([z, z]), t, torch.cat([labels, null])).chunk(2)
            return strong, weak[:, : z.shape[1]]
        known = labels if self.null_class else None
        weak, _ = self.weaker.diffusion.variance.split(self.weaker(z, t, known), z)
        level = self.network.diffusion.schedule.level(t, torch.float64)
        weak = self.weaker.diffusion.target.convert(weak, z, level, to=self.network.diffusion.target)
        return self.network(z, t, known), weak.float()

    def _combine(self, output: Tensor, weak: Tensor, guidance: float, channels: int) -> Tensor:
        guided = min(self.options.guidance_channels or channels, channels)
        strong, rest = output[:, :guided], output[:, guided:]
        combined = self.options.rule.combine(strong, weak[:, :guided], guidance)
        return torch.cat([rescale(combined, strong, self.options.guidance_rescale), rest], dim=1)


def rescale(guided: Tensor, strong: Tensor, phi: float) -> Tensor:
    """Bring the deviation of each image's guided prediction back by the share phi (Lin et al. 2023, eq. 15, 16)."""
    if phi == 0:
        return guided
    dims = tuple(range(1, guided.ndim))
    factor = strong.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return guided * (phi * factor + 1 - phi)
