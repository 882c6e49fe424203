"""Classifier-free guidance: the network's answer with and without its class, in one batched call."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Guided:
    """y_null + guidance (y_class - y_null), on all channels (Ho & Salimans 2022).

    Every target is affine in every other at a fixed z, so guiding in the target's own space is guiding in all of them.
    Guidance 1 is the plain conditional network, and costs one half. Under bf16 the network runs in autocast.
    """

    backbone: nn.Module
    guidance: float
    null_class: int
    precision: Precision = "fp32"

    def __call__(self, z: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """z `(B, C, H, W)`, time `(B,)`, labels `(B,)` -> the guided prediction `(B, C, H, W)`, fp32."""
        if self.guidance == 1 or self.null_class == 0:
            return self._predict(z, time, labels if self.null_class else None)
        null = torch.full_like(labels, self.null_class)
        both = self._predict(z.repeat(2, 1, 1, 1), time.repeat(2), torch.cat([labels, null]))
        conditional, unconditional = both.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)

    def _predict(self, z: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.backbone(z, time, labels).float()
