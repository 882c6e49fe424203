"""A backbone with the process that says how to ask it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentdebias.diffusion import Diffusion


@dataclass(frozen=True)
class Network:
    """A backbone and the process it was trained under."""

    backbone: nn.Module
    diffusion: Diffusion

    def __call__(self, z: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """z `(B, C, H, W)` at timestep t `()` on the CPU -> the network's own output, fp32."""
        schedule = self.diffusion.schedule
        scale = self.diffusion.target.input_scale(schedule.level(t, torch.float64))
        time = torch.full((len(z),), float(schedule.model_time(t)), device=z.device)
        return self.backbone((scale * z).float(), time, labels).float()
