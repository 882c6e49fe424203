"""A backbone whose shapes are known: its options, and what the data decides about it."""

from dataclasses import dataclass

import torch
from torch import nn

from latentdebias.backbones.spec import BackboneSpec


@dataclass(frozen=True)
class SizedBackbone:
    """A network for latents `(C, h, w)` of `num_classes` classes (0: none) that answers in `outputs * C` channels."""

    spec: BackboneSpec
    latent_shape: tuple[int, int, int]
    num_classes: int
    outputs: int = 1

    def build(self) -> nn.Module:
        """The network with freshly initialised weights, or the pretrained ones that `spec` asks for."""
        channels, side, _ = self.latent_shape
        return self.spec.build(side, channels, self.num_classes, self.outputs * channels)

    def untrained(self) -> "SizedBackbone":
        """The same network without a download of pretrained weights."""
        return SizedBackbone(self.spec.without_pretrained(), self.latent_shape, self.num_classes, self.outputs)

    def on_meta(self) -> nn.Module:
        """The network on the meta device: names and shapes of its weights, without memory or a download."""
        with torch.device("meta"):
            return self.untrained().build()
