"""Token routing: in training a random share of the patches skips the middle blocks (TREAD, Krause et al. 2025).

The paper is arXiv:2501.04765. Nothing is added to the network, and sampling runs every token through every block.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from latentdebias.errors import UserError
from latentdebias.philox import random_integers

STREAM = 1
"""The stream of random numbers (see `philox.random_integers`) that chooses the tokens."""

RunBlock = Callable[[nn.Module, Tensor, Tensor | None], Tensor]
"""A function that runs one block on tokens `(B, N, D)` with the rotary embedding of their positions."""


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The share of patches that skips blocks in training, and the blocks: `blocks[start:end]`, counted as in Python.

    Each sample's patches are chosen at random anew at every step. They wait unchanged while the blocks run on the other
    tokens, and are put back in their places. Condition and register tokens never skip a block. Share 0 routes nothing.
    In the paper's main runs half of the patches skip the third block to the fourth last: share 0.5 with the defaults.
    """

    main_field: ClassVar[str] = "share"

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    start: int = 2
    end: int = -3


NO_ROUTING = Routing()


class Router(nn.Module):
    """Runs a network's blocks, in training past the tokens that `routing` lets skip them; it has no weights.

    Raises `UserError` where `routing` names no block of a network of `depth` blocks.
    """

    def __init__(self, routing: Routing, depth: int) -> None:
        super().__init__()
        self.share, self.routed = routing.share, range(depth)[routing.start : routing.end]
        self.keys: tuple[int, Tensor] | None = None
        """A seed and the samples' positions in the run, int64 `(B,)`, which the choice of tokens is a function of.

        Where it is None, the tokens are chosen by torch's global generator.
        """
        if routing.share and not self.routed:
            raise UserError(
                f"routing from block {routing.start} to {routing.end} skips none of the {depth} blocks; set start and "
                f"end as in a slice of Python, for example routing.start={depth // 4} routing.end={depth - depth // 4}"
            )

    def through(
        self, blocks: Iterable[nn.Module], x: Tensor, patches: int, ropes: Sequence[Tensor | None], run: RunBlock
    ) -> Tensor:
        """The output `(B, N, D)` of all blocks for tokens x `(B, N, D)`, of which the last `patches` are patches.

        `ropes` has a rotary embedding for each block, `(patches, R)` or `(heads, patches, R)`, or None. A block that is
        run on K patches of its own for each sample gets `(B, 1 or heads, K, R)`.
        """
        kept = self._kept_patches(x, patches)
        if kept is None:
            for block, rope in zip(blocks, ropes, strict=True):
                x = run(block, x, rope)
            return x
        prefix = torch.arange(x.shape[1] - patches, device=x.device).expand(len(x), -1)
        tokens = torch.cat([prefix, kept + prefix.shape[1]], dim=1)[..., None].expand(-1, -1, x.shape[2])
        ropes_of_kept = {id(rope): _rope_at(rope, kept) for rope in ropes[self.routed.start : self.routed.stop]}
        everything = x
        for number, (block, rope) in enumerate(zip(blocks, ropes, strict=True)):
            if number == self.routed.start:
                everything, x = x, x.gather(1, tokens)
            x = run(block, x, ropes_of_kept[id(rope)] if number in self.routed else rope)
            if number == self.routed[-1]:
                x = everything.scatter(1, tokens, x.to(everything.dtype))
        return x

    def _kept_patches(self, x: Tensor, patches: int) -> Tensor | None:
        """The patches that skip no block, int64 `(B, K)`, in ascending order; None where all are kept."""
        count = patches - int(self.share * patches)
        if not self.training or count == patches:
            return None
        if self.keys is None:
            scores = torch.rand(len(x), patches, device=x.device)
        else:
            seed, positions = self.keys
            scores = random_integers(seed, positions, STREAM, patches)
        return scores.argsort(dim=1, stable=True)[:, :count].sort(dim=1).values


def routers(backbone: nn.Module) -> list[Router]:
    """The routers of a backbone; an empty list where it cannot route tokens, or routes none."""
    return [module for module in backbone.modules() if isinstance(module, Router) and module.share]


def _rope_at(rope: Tensor | None, kept: Tensor) -> Tensor | None:
    if rope is None:
        return None
    return rope.reshape(-1, *rope.shape[-2:])[:, kept].transpose(0, 1)
