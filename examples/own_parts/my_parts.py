"""A weighting and a backbone that latentdebias does not have; `imports: [my_parts]` in run.yaml makes them known."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentdebias.backbones import BACKBONES, BackboneSpec
from latentdebias.diffusion import WEIGHTINGS, NoiseLevel, Weighting


@WEIGHTINGS.register("my_sigmoid")
@dataclass(frozen=True, kw_only=True)
class SigmoidWeighting(Weighting):
    """sigmoid(bias - log SNR), on the squared error of eps (Kingma & Gao 2023)."""

    space: str = "eps"
    bias: float = 2.0

    def weight(self, level: NoiseLevel) -> Tensor:
        return torch.sigmoid(self.bias - level.snr.log())


class ConvNet(nn.Module):
    """Convolutions, shifted by time and class: `model(z, t, y)` -> as many channels as asked for."""

    def __init__(self, width: int, depth: int, in_chans: int, num_classes: int, out_chans: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.first, self.last = nn.Conv2d(in_chans, width, 3, padding=1), nn.Conv2d(width, out_chans, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.time, self.label = nn.Linear(1, width), nn.Embedding(num_classes + 1, width)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        labels = torch.full((len(z),), self.num_classes, device=z.device) if y is None else y
        condition = (self.time(t[:, None].float() / 1000) + self.label(labels))[..., None, None]
        x = self.first(z)
        for block in self.blocks:
            x = x + block(nn.functional.silu(x + condition))
        return self.last(x)


@BACKBONES.register("my_convnet")
@dataclass(frozen=True, kw_only=True)
class ConvNetSpec(BackboneSpec):
    width: int = 64
    depth: int = 4

    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> nn.Module:
        return ConvNet(self.width, self.depth, in_chans, num_classes, out_chans or in_chans)
