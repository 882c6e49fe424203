"""Where a backbone keeps its blocks."""

from typing import Any

from torch import nn

from latentdebias.errors import UserError


def blocks_of(backbone: nn.Module) -> dict[str, nn.Module]:
    """The repeated blocks by their path in the backbone: its `blocks`, else those of the first list of that name."""
    for module in backbone.modules():
        listed: Any = getattr(module, "blocks", None)
        if listed is not None:
            blocks = {id(block) for block in listed}
            return {path: block for path, block in backbone.named_modules() if id(block) in blocks}
    return {}


def repeated_blocks(backbone: nn.Module) -> list[nn.Module]:
    """Those blocks; `UserError` where the backbone has none, for what is asked of them would not be done."""
    blocks = list(blocks_of(backbone).values())
    if not blocks:
        raise UserError(
            f"{type(backbone).__name__} has no repeated blocks, so they cannot be checkpointed, compiled or given to "
            f"Muon; list them in its attribute `blocks`, or leave these options out."
        )
    return blocks
