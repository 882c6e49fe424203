"""A backbone's repeated blocks: finding them, and checkpointing or compiling each.

Checkpointing and compilation replace only the `forward` of a block, in place. Parameter names stay the same, and the
hooks with which ZeRO-3 gathers and releases a block's weights still run around its forward.
"""

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from latentdebias.backbones.routing import routers
from latentdebias.errors import UserError

Where = Literal["none", "blocks"]


def find_blocks(backbone: nn.Module) -> list[nn.Module]:
    """The modules in the backbone's attribute `blocks`; an empty list where it has no such attribute."""
    return list(getattr(backbone, "blocks", ()))


def repeated_blocks(backbone: nn.Module) -> list[nn.Module]:
    """The modules in the backbone's attribute `blocks`; raises `UserError` where there are none."""
    blocks = find_blocks(backbone)
    if not blocks:
        raise UserError(
            f"{type(backbone).__name__} names no repeated blocks, so they cannot be checkpointed, compiled or given to "
            f"Muon; list them in an attribute `blocks` of the backbone, or leave these options out."
        )
    return blocks


def checkpoint_blocks(backbone: nn.Module) -> None:
    """Keep only each block's inputs for the backward pass, which runs the block's forward again (Chen et al. 2016)."""
    for block in repeated_blocks(backbone):
        block.register_forward_pre_hook(keywords_to_positions, with_kwargs=True)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(backbone: nn.Module) -> None:
    """Compile each block with `torch.compile` at its first call; blocks of equal structure share the compiled code."""
    # A network that routes tokens runs its blocks on two numbers of tokens, each with a graph of its own: a graph for
    # any number could be taken where a checkpointed block runs again, in place of the first graph, which torch refuses.
    dynamic = False if routers(backbone) else None
    for block in repeated_blocks(backbone):
        block.register_forward_pre_hook(keywords_to_positions, with_kwargs=True)
        block.forward = torch.compile(block.forward, dynamic=dynamic)


def keywords_to_positions(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A forward pre-hook that passes a block's keyword arguments by position; keyword-only ones stay keywords.

    diffusers calls a UNet's blocks by keyword, and two libraries look at positional arguments alone: `checkpoint` saves
    the random state of the devices of these tensors, without which dropout draws other masks in the second forward, and
    ZeRO-3 releases a block's weights after the gradient of these tensors.
    """
    if not kwargs:
        return None
    bound = _signature(type(block).forward).bind(block, *args, **kwargs)
    bound.apply_defaults()
    return bound.args[1:], bound.kwargs


@functools.cache
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(forward)
