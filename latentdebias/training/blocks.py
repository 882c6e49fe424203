"""Activation checkpointing and compilation of a backbone's repeated blocks, in place: parameter names stay the same.

Both change `forward` alone, so that the hooks with which ZeRO-3 gathers and releases a block's weights stay around it.
"""

from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from latentdebias.backbones.blocks import repeated_blocks

Where = Literal["none", "blocks"]


def checkpoint_blocks(backbone: nn.Module) -> None:
    """Keep only the inputs of each block for the backward pass, which runs its forward once more (Chen et al. 2016)."""
    for block in repeated_blocks(backbone):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(backbone: nn.Module) -> None:
    """Compile each block with `torch.compile` when it is first called; equal blocks share the compiled code."""
    for block in repeated_blocks(backbone):
        block.forward = torch.compile(block.forward)
