"""Where a backbone keeps its blocks."""

from typing import Any

from torch import nn


def blocks_of(backbone: nn.Module) -> dict[str, nn.Module]:
    """The repeated blocks by their path in the backbone: its `blocks`, else those of the first list of that name."""
    for module in backbone.modules():
        listed: Any = getattr(module, "blocks", None)
        if listed is not None:
            blocks = {id(block) for block in listed}
            return {path: block for path, block in backbone.named_modules() if id(block) in blocks}
    return {}
