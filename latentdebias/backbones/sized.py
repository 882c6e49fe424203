"""A backbone's options together with the shapes that the data decides, which is all that building it needs."""

from dataclasses import dataclass

import torch
from torch import nn

from latentdebias.backbones.spec import BackboneSpec
from latentdebias.errors import UserError


@dataclass(frozen=True)
class SizedBackbone:
    """A network for latents of shape `latent_shape` (C, h, w) and `num_classes` classes, 0 for an unconditional one.

    Its output has `outputs * C` channels: `outputs` is 2 where the network also predicts a variance.
    """

    spec: BackboneSpec
    latent_shape: tuple[int, int, int]
    num_classes: int
    outputs: int = 1

    def build(self) -> nn.Module:
        """The network with newly initialised weights, or with the pretrained weights that `spec` asks for."""
        channels, side, _ = self.latent_shape
        return self.spec.build(side, channels, self.num_classes, self.outputs * channels)

    def untrained(self) -> "SizedBackbone":
        """The same network with newly initialised weights; nothing is downloaded."""
        return SizedBackbone(self.spec.without_pretrained(), self.latent_shape, self.num_classes, self.outputs)

    def on_meta(self) -> nn.Module:
        """The network on the meta device: its weights have names and shapes, and take no memory or download.

        Raises `UserError` where a size in `spec`, or one that the data decides, is too large for any tensor.
        """
        try:
            with torch.device("meta"):
                return self.untrained().build()
        except (RuntimeError, OverflowError, MemoryError, TypeError) as error:  # TypeError: beyond C++'s numbers
            raise UserError(
                f"The network cannot be built for latents {tuple(self.latent_shape)} and {self.num_classes} classes: "
                f"{str(error)[:200]}. Look for a number that is too large in model: {self.spec}."
            ) from None
