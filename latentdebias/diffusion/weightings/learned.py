"""A weighting that is learned while training: EDM2's uncertainty of the network at each noise level."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from latentdebias.diffusion.schedules import Schedule
from latentdebias.diffusion.weightings.likelihood import EdmWeight
from latentdebias.diffusion.weightings.weighting import WEIGHTINGS

ATTRIBUTE = "loss_uncertainty"
"""The attribute under which a network that trains with a learned weighting holds its `Uncertainty`."""


@WEIGHTINGS.register("edm2_uncertainty")
@dataclass(frozen=True, kw_only=True)
class Edm2Uncertainty(EdmWeight):
    """w / e^u on x0, with u added to the loss; w = (s^2 + sigma_data^2) / (s sigma_data)^2, s = sigma / alpha.

    EDM2, Karras et al. 2024 (arXiv:2312.02696), eq. 14 and 15. u(s) is a small network, trained with the run: at its
    optimum e^u is the weighted error itself, so that every noise level has the same share of the gradient. It is no
    part of the exported model. Where no u is trained, as in a loop of one's own, the weight is w alone.
    """

    channels: Annotated[int, Field(gt=0, le=2**16)] = 128


class Uncertainty(nn.Module):
    """u of a noise level: one linear layer on `channels` random Fourier features of ln(s) / 4; 0 to begin with."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The features are the same in every run: a run's own random numbers stay what they are without this weighting.
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(channels, generator=generator))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels, generator=generator))
        # A vector: optimizers such as Muon take a matrix of one row for a layer to orthogonalise.
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, c_noise: Tensor) -> Tensor:
        """u at c_noise = ln(s) / 4: `(B,)` -> `(B,)`, fp32."""
        features = math.sqrt(2) * torch.cos(c_noise.float()[:, None] * self.frequencies + self.phases)
        return (features * self.weight).sum(dim=1) / math.sqrt(len(self.weight))


def add_uncertainty(backbone: nn.Module, weighting: Edm2Uncertainty, schedule: Schedule) -> None:
    """Let `backbone(z, time, y)` return u of each row beside its output: `(B, C, ...)` and `(B,)`.

    u is computed inside the network's own forward, where ZeRO-3 gathers its weights like all others.
    """
    uncertainty = Uncertainty(weighting.channels)
    backbone.add_module(ATTRIBUTE, uncertainty)
    predict = backbone.forward

    def forward(z: Tensor, time: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        level = schedule.level(schedule.from_model_time(time)).inside()
        return predict(z, time, y), uncertainty(level.ratio.log() / 4)

    backbone.forward = forward


def without_uncertainty(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the weights of the learned uncertainty: the network alone, shapes as they are (any)."""
    return {name: weight for name, weight in weights.items() if not name.startswith(f"{ATTRIBUTE}.")}
