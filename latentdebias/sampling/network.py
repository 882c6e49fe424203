"""A backbone with the diffusion process that says how to ask it, and what decides which options suit it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentdebias.diffusion import Diffusion


@dataclass(frozen=True)
class Network:
    """A backbone and the diffusion process that it was trained under."""

    backbone: nn.Module
    diffusion: Diffusion

    def __call__(self, z: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The network's output (B, C or 2C, H, W), fp32, for z (B, C, H, W) at one timestep t () on the CPU.

        The input scale of the target is applied to z, and t is turned into the time that the network was trained with.
        """
        schedule = self.diffusion.schedule
        scale = self.diffusion.target.input_scale(schedule.level(t, torch.float64))
        time = torch.full((len(z),), float(schedule.model_time(t)), device=z.device)
        return self.backbone((scale * z).float(), time, labels).float()


@dataclass(frozen=True)
class ModelFacts:
    """What decides which drawing options suit a model, known before its network is built.

    `channels` are those of its latents, `num_classes` is 0 for an unconditional model, and `autoguided` says whether a
    weaker model guides it in place of its null class.
    """

    diffusion: Diffusion
    channels: int
    num_classes: int
    autoguided: bool = False
