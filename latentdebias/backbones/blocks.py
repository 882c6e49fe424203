"""A backbone's repeated blocks, and what is done to each of them, in place: parameter names stay the same.

Checkpointing and compilation change `forward` alone, so that the hooks with which ZeRO-3 gathers and releases a block's
weights stay around it.
"""

from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from latentdebias.errors import UserError

Where = Literal["none", "blocks"]


def find_blocks(backbone: nn.Module) -> list[nn.Module]:
    """The `blocks` that the backbone names, none where it names none."""
    return list(getattr(backbone, "blocks", ()))


def repeated_blocks(backbone: nn.Module) -> list[nn.Module]:
    """Those of `find_blocks`; raises `UserError` where there are none."""
    blocks = find_blocks(backbone)
    if not blocks:
        raise UserError(
            f"{type(backbone).__name__} names no repeated blocks, so they cannot be checkpointed, compiled or given to "
            f"Muon; list them in an attribute `blocks` of the backbone, or leave these options out."
        )
    return blocks


def checkpoint_blocks(backbone: nn.Module) -> None:
    """Keep only the inputs of each block for the backward pass, which runs its forward once more (Chen et al. 2016)."""
    for block in repeated_blocks(backbone):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(backbone: nn.Module) -> None:
    """Compile each block with `torch.compile` when it is first called; equal blocks share the compiled code."""
    for block in repeated_blocks(backbone):
        block.forward = torch.compile(block.forward)
