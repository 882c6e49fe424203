"""Floating-point operations of a backbone, counted on the meta device, without weights or data."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from latentdebias.backbones.blocks import Where, find_blocks
from latentdebias.backbones.spec import BackboneSpec


@dataclass(frozen=True)
class ForwardFlops:
    """FLOPs of the forward pass of one image: `total`, and the part in the repeated blocks.

    A multiply-add counts as 2. Matrix products, convolutions and attention are counted, elementwise operations are not.
    """

    total: int
    blocks: int

    def training(self, recomputed: Where = "none") -> int:
        """FLOPs of training on one image: 3 times the forward pass, since the backward pass costs 2 of them.

        `recomputed` blocks, which are checkpointed, cost one forward pass more.
        """
        return 3 * self.total + {"none": 0, "blocks": self.blocks}[recomputed]


def forward_flops(spec: BackboneSpec, latent_shape: tuple[int, int, int], num_classes: int) -> ForwardFlops | None:
    """Count the FLOPs of one forward pass of one latent `(C, h, w)`; DiT-XL/2 at (4, 32, 32) has 237e9.

    Returns None for a backbone whose forward reads a tensor's values, for example with `.item()`: tensors on the meta
    device have none. Any other error of the forward is raised unchanged.
    """
    channels, side, _ = latent_shape
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        backbone = spec.without_pretrained().build(side, channels, num_classes)
        try:
            backbone(torch.empty(1, *latent_shape), torch.empty(1), torch.empty(1, dtype=torch.long))
        except RuntimeError as error:
            # torch has no exception class for what a meta tensor cannot do, but its messages name the device.
            if "meta" not in str(error):
                raise
            return None
    by_module, blocks = counter.get_flop_counts(), {id(block) for block in find_blocks(backbone)}
    paths = [path for path, module in backbone.named_modules() if id(module) in blocks]
    in_blocks = sum(sum(by_module[f"{type(backbone).__name__}.{path}"].values()) for path in paths)
    return ForwardFlops(counter.get_total_flops(), in_blocks)
