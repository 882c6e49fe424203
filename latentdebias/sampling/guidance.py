"""Classifier-free guidance: the network's answer with and without its class, in one batched call."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Guided:
    """y_null + guidance (y_class - y_null), on all channels (Ho & Salimans 2022).

    Every target is affine in every other at a fixed z, so guiding in the target's own space is guiding in all of them.
    Guidance 1 is the plain conditional network, and costs one half.
    """

    backbone: nn.Module
    guidance: float
    null_class: int

    def __call__(self, z: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """z `(B, C, H, W)`, time `(B,)`, labels `(B,)` -> the guided prediction `(B, C, H, W)`, fp32."""
        if self.guidance == 1 or self.null_class == 0:
            return self.backbone(z, time, labels if self.null_class else None).float()
        null = torch.full_like(labels, self.null_class)
        both = self.backbone(z.repeat(2, 1, 1, 1), time.repeat(2), torch.cat([labels, null]))
        conditional, unconditional = both.float().chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)
